"""Sessions and checkpoints on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alphaedit.core.edit import FORMAT, Edit
from alphaedit.core.errors import EditFileError, FingerprintError
from alphaedit.core.files import atomic_folder, recover
from alphaedit.methods.state import SequentialState
from alphaedit.model.handle import ModelHandle
from alphaedit.model.quantised import keep_unquantised

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


def save_session(
    folder: Path, base: str, edits: Sequence[Edit], states: Sequence[SequentialState]
) -> Path:
    """Write edits and sequential state into `folder`, all or nothing.

    Args:
        folder: where to write.
        base: fingerprint of the unedited model.
        edits: oldest first.
        states: the state after each edit. Each grows out of the one before, so that the last one
            and the sizes of the others hold them all.

    Raises:
        ResourceError: writing failed; what was there before is kept.
    """
    state = states[-1] if states else SequentialState()
    with atomic_folder(folder) as part:
        names = [f"{index:05d}-{edit.id}" for index, edit in enumerate(edits)]
        for name, edit in zip(names, edits, strict=True):
            edit.save(part / name)
        tensors = {f"past_keys.{k}": v.contiguous().cpu() for k, v in state.past_keys.items()}
        memory = _memory(states)
        save_file({**tensors, **memory}, part / _STATE)
        about = {
            "format": FORMAT,
            "base": base,
            "edits": names,
            "contexts": state.contexts,
            "counts": [s.edits for s in states],
            "memory": [list(s.memory) for s in states],
            "columns": [{str(k): v.shape[1] for k, v in s.past_keys.items()} for s in states],
        }
        text = json.dumps(about, indent=1, ensure_ascii=False)
        (part / _SESSION).write_text(text + "\n", encoding="utf-8")
    return folder


def load_session(folder: Path, base: str | None = None) -> tuple[list[Edit], list[SequentialState]]:
    """Read what `save_session` wrote: edits, and the state after each.

    Args:
        folder: where `save_session` wrote.
        base: fingerprint of the unedited model; not compared if not given.

    Raises:
        EditFileError: the folder is missing, truncated or changed.
        FingerprintError: it belongs to another model.
    """
    try:
        recover(folder)
        about = json.loads((folder / _SESSION).read_text(encoding="utf-8"))
        tensors = load_file(folder / _STATE)
        names, contexts, recorded = about["edits"], about["contexts"], about["base"]
        past = {
            int(key.split(".")[1]): value
            for key, value in tensors.items()
            if key.startswith("past_keys.")
        }
        memories = _remembered(about.get("memory", [[] for _ in about["counts"]]), tensors)
        states = [
            SequentialState(
                contexts=None if contexts is None else tuple(contexts),
                past_keys={int(k): past[int(k)][:, :size] for k, size in columns.items()},
                edits=count,
                memory=memory,
            )
            for count, columns, memory in zip(
                about["counts"], about["columns"], memories, strict=True
            )
        ]
    except FileNotFoundError as error:
        raise EditFileError(
            f"{folder} is not a saved session: {Path(error.filename or _SESSION).name} is missing.",
            remedy="Give the directory that `alphaedit edit -o` wrote.",
        ) from error
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        SafetensorError,
        OSError,
    ) as error:
        raise _broken(folder, str(error)) from error
    sizes = {layer: keys.shape[1] for layer, keys in states[-1].past_keys.items()} if states else {}
    if len(names) != len(states) or sizes != {layer: k.shape[1] for layer, k in past.items()}:
        raise _broken(folder, f"{_SESSION} and {_STATE} do not belong together")
    edits = [Edit.load(folder / name) for name in names]
    for edit in edits:
        check_base(edit, base or recorded)
    return edits, states


def _memory(states: Sequence[SequentialState]) -> dict[str, Tensor]:
    """What each state holds that the one before does not, by "memory.INDEX.NAME"."""
    found: dict[str, Tensor] = {}
    held: Mapping[str, Tensor] = {}
    for index, state in enumerate(states):
        for name, tensor in state.memory.items():
            if name not in held or not torch.equal(held[name], tensor):
                found[f"memory.{index}.{name}"] = tensor.contiguous().cpu()
        held = state.memory
    return found


def _remembered(
    names: Sequence[Sequence[str]], tensors: Mapping[str, Tensor]
) -> list[dict[str, Tensor]]:
    """The memory of each state, out of what `_memory` gave."""
    memories: list[dict[str, Tensor]] = []
    held: dict[str, Tensor] = {}
    for index, wanted in enumerate(names):
        own = {n: tensors[key] for n in wanted if (key := f"memory.{index}.{n}") in tensors}
        held = {name: own[name] if name in own else held[name] for name in wanted}
        memories.append(held)
    return memories


def revert_session(folder: Path, count: int) -> list[Edit]:
    """Take the last `count` edits out of a saved session, all or nothing, without a model.

    Returns:
        The edits taken out, the last one first. What remains is as it was before they were made.

    Raises:
        EditFileError: the session is broken or has fewer edits.
        ResourceError: writing failed; the session is as before.
    """
    edits, states = load_session(folder)
    check_count(folder, edits, count)
    kept = len(edits) - count
    save_session(folder, edits[0].base, edits[:kept], states[:kept])
    return edits[kept:][::-1]


def check_count(folder: Path, edits: Sequence[Edit], count: int) -> None:
    """Refuse to revert more edits than there are.

    Raises:
        EditFileError: `count` is not between 1 and their number.
    """
    if not 1 <= count <= len(edits):
        raise EditFileError(
            f"{count} edits cannot be reverted: {folder} has {len(edits)}.",
            remedy=f"Revert between 1 and {len(edits)}." if edits else "There is nothing to do.",
        )


def _broken(folder: Path, why: str) -> EditFileError:
    return EditFileError(
        f"{folder} cannot be read as a session: {why}.",
        remedy="Take it from a backup, or make the edits again.",
    )


def save_checkpoint(handle: ModelHandle, folder: Path) -> Path:
    """Write model and tokenizer as transformers does, all or nothing.

    Raises:
        ResourceError: writing failed; what was there before is kept.
    """
    with atomic_folder(folder) as part:
        keep_unquantised(handle.model.config, handle.unquantised)
        handle.model.save_pretrained(part, safe_serialization=True)
        handle.tokenizer.save_pretrained(part)
    return folder
