"""Signatures of entries with ssh keys, in the format of ``ssh-keygen -Y``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from alphaedit.core.errors import ConfigError, LedgerError
from alphaedit.core.files import write_text

NAMESPACE = "alphaedit"


def _keygen() -> str:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise ConfigError(
            "Signatures need the program ssh-keygen.", remedy="Install OpenSSH, or do not sign."
        )
    return program


def sign(digest: str, path: Path, key: Path) -> None:
    """Write the signature of an entry's hash.

    Raises:
        ConfigError: there is no ssh-keygen or no such key, or the key cannot sign.
        ResourceError: the file cannot be written.
    """
    if not key.is_file():
        raise ConfigError(f"There is no key {key}.", remedy="Give a private ssh key.")
    done = subprocess.run(
        [_keygen(), "-Y", "sign", "-f", str(key), "-n", NAMESPACE, "-q"],
        input=digest.encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise ConfigError(
            f"ssh-keygen cannot sign with {key}: {_last(done.stderr)}.",
            remedy="Give a private ssh key, with its passphrase in ssh-agent. Nothing was written.",
        )
    write_text(done.stdout.decode(), path)


def verify(digest: str, path: Path, allowed: Path | None) -> str | None:
    """Who signed an entry's hash.

    Args:
        digest: the hash.
        path: the signature; None is returned if there is none.
        allowed: ssh's "allowed signers" file. Without it only the signature itself is checked, not
            whose it is.

    Raises:
        LedgerError: the signature is wrong, or by nobody who may sign.
    """
    if not path.is_file():
        return None
    if allowed is None:
        argv = ["-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(path)]
        who = "unknown signer"
    else:
        principals = subprocess.run(
            [_keygen(), "-Y", "find-principals", "-s", str(path), "-f", str(allowed)],
            capture_output=True,
            check=False,
        )
        lines = principals.stdout.decode(errors="replace").splitlines()
        if principals.returncode or not lines:
            raise LedgerError(
                f"{path.name} is by nobody that {allowed} names.",
                remedy="Do not trust this ledger, or add the signer's public key there.",
            )
        who = lines[0].strip()
        argv = ["-Y", "verify", "-n", NAMESPACE, "-s", str(path), "-f", str(allowed), "-I", who]
    done = subprocess.run(
        [_keygen(), *argv], input=digest.encode(), capture_output=True, check=False
    )
    if done.returncode:
        raise LedgerError(
            f"{path.name} is no signature of its entry: {_last(done.stderr or done.stdout)}.",
            remedy="Do not trust this ledger.",
        )
    return who


def _last(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1].rstrip(".") if lines else "no reason given"
