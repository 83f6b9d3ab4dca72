"""What one batch of edits taught a sequential run, as kept beside the edit on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from alphaedit.core.stored import read_state, read_state_tensors

STATE, STATE_TENSORS = "state.json", "state.safetensors"


@dataclass(frozen=True, eq=False)
class Learned:
    """What one batch added to a sequential run.

    Attributes:
        contexts: texts put before prompts.
        keys: for each layer the keys solved with, [d_in, u] float32.
        edits: number of facts edited.
        memory: what methods and plug-ins keep, where this batch changed it.
        kept: names of all that they keep.
    """

    contexts: tuple[str, ...] | None = None
    keys: Mapping[int, Tensor] = field(default_factory=dict)
    edits: int = 0
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    def write_files(self, folder: Path) -> None:
        """Write `state.json` and `state.safetensors` into a directory that is there."""
        keys = {f"keys.{layer}": keys for layer, keys in self.keys.items()}
        memory = {f"memory.{name}": tensor for name, tensor in self.memory.items()}
        save_file({**keys, **memory}, folder / STATE_TENSORS)
        about = {"contexts": self.contexts, "edits": self.edits, "kept": list(self.kept)}
        text = json.dumps(about, indent=1, ensure_ascii=False)
        (folder / STATE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read_files(cls, folder: Path) -> Learned:
        """Read what `write_files` wrote.

        Raises:
            EditFileError: a file is missing or broken; it is named.
        """
        about = read_state(folder / STATE)
        keys, memory = read_state_tensors(folder / STATE_TENSORS)
        contexts = about["contexts"]
        return cls(
            contexts=None if contexts is None else tuple(contexts),
            keys=keys,
            edits=about["edits"],
            memory=memory,
            kept=tuple(about["kept"]),
        )
