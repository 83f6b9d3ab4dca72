"""Ledgers and adapters on the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from alphaedit.core.errors import ConfigError, ResourceError
from alphaedit.ledger.archive import naming, parts, receive
from alphaedit.ledger.ledger import Ledger

ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "README.md")
DELTA = ("delta.json", "delta.safetensors", "README.md")
_FAILURES = (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError)


@dataclass(frozen=True)
class Pushed:
    """What went, or would go, to the Hub.

    Attributes:
        repo: owner/name.
        kind: ledger, adapter or delta.
        files: paths and sizes in bytes.
        url: of the commit; None for a dry run.
    """

    repo: str
    kind: str
    files: dict[str, int]
    url: str | None


def contents(folder: Path) -> tuple[str, list[str]]:
    """What a directory holds that can be pushed, and its files.

    Raises:
        ConfigError: neither a ledger nor an export.
    """
    if Ledger.at(folder):
        return "ledger", parts(Ledger(folder))
    for kind, names in (("adapter", ADAPTER), ("delta", DELTA)):
        if (folder / names[0]).is_file():
            return kind, [name for name in names if (folder / name).is_file()]
    raise ConfigError(
        f"{folder} holds neither a ledger nor an exported adapter or delta.",
        remedy="Give what `alphaedit edit -o` or `alphaedit export -o` wrote.",
    )


def push(
    folder: Path,
    repo: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    message: str = "",
    api: Any = None,
) -> Pushed:
    """Copy a ledger or an export to a repository, which is made if there is none.

    Args:
        folder: what to push; files that do not belong to it stay here.
        repo: owner/name.
        private: for a repository that is made.
        dry_run: only tell; needs no network.
        message: of the commit.
        api: instead of `HfApi()`, which takes the token of `hf auth login`.

    Raises:
        ConfigError: nothing to push.
        ResourceError: the Hub cannot be reached or refuses.
    """
    kind, names = contents(folder)
    files = {name: (folder / name).stat().st_size for name in names}
    if dry_run:
        return Pushed(repo, kind, files, None)
    api = api or HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            allow_patterns=names,
            commit_message=message or f"{kind} of alphaedit",
        )
    except _FAILURES as error:
        raise _refused(repo, error) from error
    return Pushed(repo, kind, files, str(getattr(done, "commit_url", done)))


def pull(repo: str, folder: Path, *, revision: str | None = None, download: Any = None) -> int:
    """Bring a ledger from the Hub into a new directory, or one here up to it; entries that came.

    Args:
        repo: owner/name.
        folder: where to.
        revision: a branch, tag or commit.
        download: instead of `huggingface_hub.snapshot_download`.

    Raises:
        ResourceError: the Hub cannot be reached or refuses.
        LedgerError: what came is no ledger, is not whole, or went another way than the one here.
    """
    with tempfile.TemporaryDirectory() as place:
        try:
            (download or snapshot_download)(
                repo,
                revision=revision,
                local_dir=place,
                allow_patterns=["journal.jsonl", "edits/*", "signatures/*"],
            )
        except _FAILURES as error:
            raise _refused(repo, error) from error
        with naming(Path(place), repo):
            return receive(Path(place), folder)


def _refused(repo: str, error: Exception) -> ResourceError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ResourceError(
        f"{repo}: {first}",
        remedy="Check the name, the network (HF_HUB_OFFLINE) and `hf auth login`; --dry-run needs "
        "none of them.",
    )
