"""Edits as a LoRA adapter that PEFT loads, or as plain factors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from alphaedit.core.edit import Edit
from alphaedit.core.errors import EditFileError, unknown_name
from alphaedit.core.files import atomic_folder
from alphaedit.core.patch import LowRank
from alphaedit.editor.checkpoint import refuse_source, save_checkpoint
from alphaedit.linalg.lowrank import concatenate, frobenius, truncate
from alphaedit.model.experts import split_name
from alphaedit.model.handle import ModelHandle
from alphaedit.model.structure import is_transposed

ADAPTER, TENSORS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
DELTA = "delta.json"
FORMS = ("lora", "delta", "checkpoint")
TOLERANCE = 1e-7
"""Relative error allowed by default: that of float32."""


@dataclass(frozen=True)
class Exported:
    """One matrix of an export.

    Attributes:
        rank: of the exported factors; given: sum of the ranks of the edits.
        error: relative error in Frobenius norm.
        size: Frobenius norm of the change.
    """

    name: str
    rank: int
    given: int
    error: float
    size: float


def summed(
    edits: Sequence[Edit], *, tolerance: float = TOLERANCE, max_rank: int | None = None
) -> tuple[dict[str, LowRank], list[Exported]]:
    """The sum of edits as one change of each matrix, of least rank within `tolerance`.

    With `max_rank`, of that rank at most; the report tells the error.

    Raises:
        EditFileError: there is no edit, or one that does not change weights.
        ConfigError: the tolerance is not between 0 and 1.
    """
    if not edits:
        raise EditFileError("There are no edits to export.", remedy="Edit first.")
    parts: dict[str, list[LowRank]] = {}
    for edit in edits:
        for other in edit.patch.changes:
            raise EditFileError(
                f"Edit {edit.id} by {edit.method} does not only change weights: {other.exports}.",
                remedy="Export edits that change weights, or edits by gated.",
            )
        for name, change in edit.patch.weights.items():
            parts.setdefault(name, []).append(change.to("cpu"))
    sums: dict[str, LowRank] = {}
    report: list[Exported] = []
    for name, changes in parts.items():
        whole = concatenate(changes)
        small, error = truncate(whole, tolerance, max_rank)
        sums[name] = small
        report.append(Exported(name, small.rank, whole.rank, error, frobenius(small)))
    return sums, report


def save_lora(
    handle: ModelHandle,
    edits: Sequence[Edit],
    folder: str | Path,
    *,
    base: str = "",
    tolerance: float = TOLERANCE,
    max_rank: int | None = None,
    only_ours: bool = False,
) -> list[Exported]:
    """Write edits as a LoRA adapter that ``peft.PeftModel.from_pretrained`` loads.

    Files of other names in `folder` stay.

    Args:
        handle: the model that the edits are for (its modules are looked at, not its weights).
        base: name or path of the unedited model, for the adapter's config.
        tolerance: relative error allowed, to make ranks smaller.
        max_rank: rank at most, whatever the error.
        only_ours: in a folder that is there, replace only what we wrote and nobody changed.

    Raises:
        EditFileError: nothing to export, or edits that no adapter can hold.
        ConfigError: `folder` is where the unedited model was loaded from, or lies in it.
        ResourceError: writing failed, or a model lies in `folder`, which transformers would load
            with the adapter; nothing is left behind.
    """
    refuse_source(handle, Path(folder))
    refuse_experts(edits, "LoRA adapters")
    changes, report = summed(edits, tolerance=tolerance, max_rank=max_rank)
    # One rank for all, filled up with zeros: vLLM and llama.cpp know no rank or scale of a module.
    rank = max([1, *(change.rank for change in changes.values())])
    paths = [name.removesuffix(".weight") for name in changes]
    transposed = {is_transposed(handle.model.get_submodule(path)) for path in paths}
    tensors = _padded(changes, rank)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "target_modules": sorted(paths),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed == {True},
        "init_lora_weights": True,
    }
    with atomic_folder(
        Path(folder), last=ADAPTER, kind="adapter", rivals=_rival, only_ours=only_ours
    ) as part:
        save_file(tensors, part / TENSORS, {"format": "pt"})
        _write(part / ADAPTER, config)
        (part / CARD).write_text(card(edits, base, report), encoding="utf-8")
    return report


def _padded(changes: Mapping[str, LowRank], rank: int) -> dict[str, torch.Tensor]:
    """The factors of each change, filled up with zeros to one rank, under PEFT's names."""
    tensors = {}
    for name, change in changes.items():
        path = name.removesuffix(".weight")
        rows, columns = change.shape
        left, right = torch.zeros(rows, rank), torch.zeros(rank, columns)
        left[:, : change.rank], right[: change.rank] = change.left, change.right
        tensors[f"base_model.model.{path}.lora_A.weight"] = right
        tensors[f"base_model.model.{path}.lora_B.weight"] = left
    return tensors


def refuse_experts(edits: Sequence[Edit], what: str) -> None:
    """Refuse edits of routed experts, for a form that changes modules or tensors as a whole.

    Raises:
        EditFileError: naming the first of their matrices.
    """
    for edit in edits:
        for name in edit.patch.weights:
            if split_name(name) is not None:
                raise EditFileError(
                    f"{what} cannot hold the change of one expert ({name}).",
                    remedy="Export with --format checkpoint, or delta.",
                )


def _rival(name: str) -> bool:
    """Whether a file beside an adapter would be loaded with it."""
    return name in ("config.json", "adapter_model.bin")


def save_delta(
    edits: Sequence[Edit],
    folder: str | Path,
    *,
    base: str = "",
    tolerance: float = TOLERANCE,
    only_ours: bool = False,
) -> list[Exported]:
    """Write the sum of edits as factors: NAME.left [d_out, r] and NAME.right [r, d_in].

    Files of other names in `folder` stay; `only_ours` as for `save_lora`.

    Raises:
        EditFileError: nothing to export, or edits that change more than weights.
        ResourceError: writing failed; nothing is left behind.
    """
    changes, report = summed(edits, tolerance=tolerance)
    tensors = {}
    for name, change in changes.items():
        tensors[f"{name}.left"] = change.left.contiguous()
        tensors[f"{name}.right"] = change.right.contiguous()
    about = {
        "base": base,
        "fingerprint": edits[0].base,
        "edits": [edit.id for edit in edits],
        "matrices": [asdict(row) for row in report],
    }
    with atomic_folder(Path(folder), last=DELTA, kind="delta", only_ours=only_ours) as part:
        save_file(tensors, part / "delta.safetensors")
        _write(part / DELTA, about)
        (part / CARD).write_text(card(edits, base, report), encoding="utf-8")
    return report


def check_form(form: str) -> str:
    """A form's name, before anything is computed for it.

    Raises:
        UnknownNameError: no such form.
    """
    if form not in FORMS:
        raise unknown_name("form of export", form, FORMS)
    return form


def export(
    handle: ModelHandle,
    edits: Sequence[Edit],
    folder: str | Path,
    form: str = "lora",
    *,
    base: str = "",
    **options: Any,
) -> list[Exported] | None:
    """Write edits, which are in force in `handle`, in one of the forms that others read.

    Args:
        form: "lora", "delta" or "checkpoint".
        base: name or path of the unedited model; by default as the model names it.
        options: see the function of each form.

    Raises:
        UnknownNameError: no such form.
        EditFileError: there is nothing to export.
    """
    check_form(form)
    base = base or str(handle.model.config.name_or_path or "")
    if form == "lora":
        return save_lora(handle, edits, folder, base=base, **options)
    if form == "delta":
        return save_delta(edits, folder, base=base, **options)
    save_checkpoint(handle, Path(folder), **options)
    return None


def card(
    edits: Sequence[Edit],
    base: str,
    report: Sequence[Exported],
    neurons: Mapping[str, Any] | None = None,
) -> str:
    """A part of a model card: what facts were changed, how, in which matrices and neurons."""
    count = sum(len(edit.facts) for edit in edits)
    lines = [
        f"# {count} facts changed" + (f" in {base}" if base else ""),
        "",
        f"Made by alphaedit on a model with fingerprint {edits[0].base[:16]}, by "
        f"{', '.join(dict.fromkeys(edit.method for edit in edits))}.",
        "",
        "| prompt | said before | says now |",
        "|---|---|---|",
    ]
    for edit in edits:
        for i, fact in enumerate(edit.facts):
            before = edit.before[i].text if i < len(edit.before) else fact.truth or ""
            first_line = before.strip().split("\n")[0][:60]
            lines.append(f"| {_cell(fact.text)} | {_cell(first_line)} | {_cell(fact.target)} |")
    if report:
        head = "| matrix | rank | norm of the change | relative error |"
        lines += ["", head, "|---|---|---|---|"]
        lines += [f"| {r.name} | {r.rank} | {r.size:.4g} | {r.error:.1e} |" for r in report]
    if neurons:
        lines += ["", of_neurons(neurons)]
    return "\n".join(lines) + "\n"


def of_neurons(about: Mapping[str, Any]) -> str:
    """How many neurons are where, and what they cost; see `Wider.about`."""
    own = ", ".join(f"{count} in block {layer}" for layer, count in about["blocks"].items())
    return (
        f"Facts are told by new neurons ({own}); all MLPs are {about['width']} wide, "
        f"{about['more_parameters']:,} parameters more."
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(data), indent=1) + "\n", encoding="utf-8")
