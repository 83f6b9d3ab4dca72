"""Sessions and checkpoints on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from alphaedit.core.edit import FORMAT, Edit, atomic_folder
from alphaedit.core.errors import EditFileError, FingerprintError
from alphaedit.methods.state import SequentialState
from alphaedit.model.handle import ModelHandle

_SESSION, _STATE = "session.json", "state.safetensors"


def check_base(edit: Edit, base: str) -> None:
    """Refuse an edit of another model.

    Raises:
        FingerprintError: fingerprints differ.
    """
    if edit.base != base:
        raise FingerprintError(
            f"Edit {edit.id} was made on a model with fingerprint {edit.base[:12]}, this model has "
            f"{base[:12]}.",
            remedy="Load the unedited model that the edit was made on.",
        )


def save_session(folder: Path, base: str, edits: Sequence[Edit], state: SequentialState) -> Path:
    """Write edits and state into `folder`, all or nothing.

    Raises:
        ResourceError: writing failed; what was there before is kept.
    """
    with atomic_folder(folder) as part:
        for index, edit in enumerate(edits):
            edit.save(part / f"{index:05d}-{edit.id}")
        tensors = {f"past_keys.{k}": v.contiguous().cpu() for k, v in state.past_keys.items()}
        save_file(tensors, part / _STATE)
        about = {
            "format": FORMAT,
            "base": base,
            "edits": [f"{index:05d}-{edit.id}" for index, edit in enumerate(edits)],
            "contexts": state.contexts,
            "count": state.edits,
        }
        text = json.dumps(about, indent=1, ensure_ascii=False)
        (part / _SESSION).write_text(text + "\n", encoding="utf-8")
    return folder


def load_session(folder: Path, base: str) -> tuple[list[Edit], SequentialState]:
    """Read what `save_session` wrote.

    Raises:
        EditFileError: the folder is missing, truncated or changed.
        FingerprintError: it belongs to another model.
    """
    try:
        about = json.loads((folder / _SESSION).read_text(encoding="utf-8"))
        tensors = load_file(folder / _STATE)
        names, contexts, count = about["edits"], about["contexts"], about["count"]
        state = SequentialState(
            contexts=None if contexts is None else tuple(contexts),
            past_keys={int(k.split(".")[1]): v for k, v in tensors.items()},
            edits=count,
        )
    except FileNotFoundError as error:
        raise EditFileError(
            f"{folder} is not a saved session: {Path(error.filename or _SESSION).name} is missing.",
            remedy="Give the directory that `alphaedit edit -o` wrote.",
        ) from error
    except (json.JSONDecodeError, KeyError, ValueError, SafetensorError, OSError) as error:
        raise EditFileError(
            f"{folder} cannot be read as a session: {error}.",
            remedy="Take it from a backup, or make the edits again.",
        ) from error
    edits = [Edit.load(folder / name) for name in names]
    for edit in edits:
        check_base(edit, base)
    return edits, state


def save_checkpoint(handle: ModelHandle, folder: Path) -> Path:
    """Write model and tokenizer as transformers does, all or nothing.

    Raises:
        ResourceError: writing failed; what was there before is kept.
    """
    with atomic_folder(folder) as part:
        handle.model.save_pretrained(part, safe_serialization=True)
        handle.tokenizer.save_pretrained(part)
    return folder


def revert_session(folder: Path, count: int) -> tuple[list[Edit], int]:
    """Take the last `count` edits out of a saved session, all or nothing.

    Returns:
        The edits taken out, last first, and how many are left.

    Raises:
        EditFileError: the session is broken, or has fewer edits.
    """
    if not (folder / _SESSION).is_file():
        raise EditFileError(
            f"{folder} is not a saved session: {_SESSION} is missing.",
            remedy="Give the directory that `alphaedit edit -o` wrote.",
        )
    base = json.loads((folder / _SESSION).read_text(encoding="utf-8"))["base"]
    edits, state = load_session(folder, base)
    if not 1 <= count <= len(edits):
        raise EditFileError(
            f"{count} edits cannot be reverted: {folder} holds {len(edits)}.",
            remedy="Give a smaller --count.",
        )
    left, removed = edits[:-count], edits[-count:]
    columns = left[-1].patch.metadata.get("past_columns", {}) if left else {}
    past = {
        layer: keys[:, : columns[str(layer)]].contiguous()
        for layer, keys in state.past_keys.items()
        if columns.get(str(layer))
    }
    total = sum(len(edit.facts) for edit in left)
    save_session(folder, base, left, SequentialState(state.contexts, past, total))
    return removed[::-1], len(left)
