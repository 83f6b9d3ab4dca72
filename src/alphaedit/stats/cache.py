"""Second moments and spectra on disk: written whole or not at all, read only where they belong."""

from __future__ import annotations

import json
import os
import tempfile
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alphaedit.core.errors import FingerprintError, ResourceError, StatsError

VARIABLE = "ALPHAEDIT_CACHE"


def default_dir() -> Path:
    """$ALPHAEDIT_CACHE, or alphaedit under the user's cache directory."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "alphaedit"


class MomentCache:
    """Tensors under a key of named parts (model, layer, corpus, tokens, kind).

    The file's name is a hash of the key, and the key itself lies in the file: a file that was
    renamed, swapped or damaged is refused.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_dir()

    def path(self, key: dict[str, str]) -> Path:
        """Where the tensors of `key` lie."""
        digest = sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
        return self.folder / f"{key.get('kind', 'moment')}-{digest}.safetensors"

    def load(self, key: dict[str, str]) -> dict[str, Tensor] | None:
        """The tensors of `key`, or None if there are none yet.

        Raises:
            StatsError: the file is damaged.
            FingerprintError: the file holds other statistics than its name says.
        """
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                stored = json.loads((file.metadata() or {}).get("key", "{}"))
                if stored != key:
                    different = [k for k in key if stored.get(k) != key[k]]
                    raise FingerprintError(
                        f"{path} holds statistics of another {', '.join(different)}.",
                        remedy="Delete the file: it will be computed again.",
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise StatsError(
                f"{path} is damaged: {error}.", remedy="Delete it: it will be computed again."
            ) from error
        if any(not bool(torch.isfinite(t).all()) for t in tensors.values()):
            raise StatsError(f"{path} holds NaN or infinity.", remedy="Delete it.")
        return tensors

    def save(self, key: dict[str, str], tensors: dict[str, Tensor]) -> None:
        """Write the tensors of `key`, all or nothing.

        Raises:
            ResourceError: the disk is full or cannot be written; nothing is left behind.
        """
        path = self.path(key)
        part: str | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(prefix=".part-", dir=self.folder)
            os.close(handle)
            own = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
            save_file(own, part, {"key": json.dumps(key)})
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        except (OSError, SafetensorError) as error:
            if part is not None:
                Path(part).unlink(missing_ok=True)
            raise ResourceError(
                f"Cannot write {path}: {error}.",
                remedy=f"Free some space, or set {VARIABLE} to another directory.",
            ) from error
