"""What `alphaedit export` does for engines that read GGUF, and what it says to all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.cli.outputs import Output
from alphaedit.core.errors import AlphaEditError, ConfigError

if TYPE_CHECKING:
    from rich.table import Table

FORMS = ("gguf", "gguf-lora")
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""
MODELFILE = "Modelfile"
LITTLE = 0.9
"""Share of a change below which rounding took too much of it."""


def check(out: Path, form: str, *, kind: str | None, ollama: bool) -> None:
    """Refuse what cannot be meant, before a model is loaded.

    Raises:
        ConfigError: a name that engines do not read, or options of other forms.
    """
    from alphaedit.model.gguf_file import is_gguf

    if form in FORMS:
        if not is_gguf(out):
            raise ConfigError(f"{out} is no name of a GGUF file.", remedy=f"Give {out.name}.gguf.")
    elif kind is not None:
        raise ConfigError(f"--type is not for --format {form}.", remedy="Leave it out.")
    if ollama and form != "gguf":
        raise ConfigError(
            f"--ollama is not for --format {form}.", remedy="Ollama takes --format gguf."
        )


def places(out: Path, model: str, form: str, *, ollama: bool) -> list[Output]:
    """Where the export writes, and by what its files are known as ours.

    Raises:
        ConfigError: the GGUF file that edits of `model` go into is not known.
    """
    if form == "gguf-lora":
        return [Output("-o", out, ours=_is_adapter)]
    from alphaedit.jobs.export import base_file

    base = base_file(model)
    outputs = [Output("-o", out, ours=lambda path: _is_edit_of(base, path))]
    return [*outputs, Output("--ollama", out.parent / MODELFILE)] if ollama else outputs


def _is_adapter(path: Path) -> bool:
    """Whether a GGUF file is an adapter that we wrote."""
    from alphaedit.model.gguf import header_of

    try:
        about = header_of(path).metadata
    except (AlphaEditError, OSError):
        return False
    kind, description = about.get("general.type"), str(about.get("general.description", ""))
    return kind == "adapter" and description.startswith("Made by alphaedit")


def _is_edit_of(base: Path, path: Path) -> bool:
    """Whether a GGUF file is `base` but for matrices that edits change: it bears no mark."""
    from alphaedit.model.gguf import header_of

    try:
        original, other = header_of(base), header_of(path)
        if path.samefile(base) or original.metadata != other.metadata:
            return False
        if list(original.tensors) != list(other.tensors):
            return False
        with open(base, "rb") as first, open(path, "rb") as second:
            for name, stored in original.tensors.items():
                counterpart = other.tensors[name]
                if "ffn_down" in name:
                    continue
                if (counterpart.type, counterpart.size) != (stored.type, stored.size):
                    return False
                first.seek(stored.start)
                second.seek(counterpart.start)
                seen = min(stored.size, 1 << 16)
                if first.read(seen) != second.read(seen):
                    return False
    except (AlphaEditError, OSError):
        return False
    return True


def show_gguf(written: dict[str, Any], title: str) -> tuple[Table, list[str]]:
    """A table of what was written, and sentences to say after it."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("tensor")
    for name in ("was", "is", "rounding error", "change kept"):
        table.add_column(name, justify="right")
    for row in written["tensors"]:
        cells = (row["before"], row["type"], f"{row['error']:.1e}", f"{row['kept']:.1%}")
        table.add_row(row["name"], *cells)
    facts = written["facts"]
    lines = [
        f"With the weights as they were written {facts['hold_as_written']} of {facts['asked']} "
        f"facts hold, {facts['hold']} before."
    ]
    lost = [row["name"] for row in written["tensors"] if row["kept"] < LITTLE]
    if lost or facts["hold_as_written"] < facts["hold"]:
        where = f" (most of the change of {', '.join(lost)})" if lost else ""
        lines.append(f"Rounding took something back{where}: give --type F16 or F32.")
    return table, lines


def ranks_line(form: str, rank: int, out: Path) -> list[str]:
    """How to serve an adapter of this rank."""
    if form == "gguf-lora":
        return [f"Serve it: llama-server --model BASE.gguf --lora {out}"]
    if form != "lora":
        return []
    fitting = [allowed for allowed in VLLM_RANKS if allowed >= rank]
    if not fitting:
        return [f"vLLM takes ranks up to {VLLM_RANKS[-1]}, not {rank}: give --max-rank for it."]
    return [
        f"Serve it: vllm serve BASE --enable-lora --max-lora-rank {fitting[0]} "
        f"--lora-modules edited={out}"
    ]
