"""Look inside a loaded model: a prompt's causal trace, null spaces, where an edit's change went."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched

if TYPE_CHECKING:
    from alphaedit.core.edit import Edit
    from alphaedit.editor.session import Editor
    from alphaedit.methods.state import Learned

Told = Callable[[Any], None]
"""Is told what is known so far, JSON values."""
POINTS = 160
"""Eigenvalues of a spectrum that are told, evenly spread."""


def untold(partial: Any) -> None:
    """A Told that tells nobody."""


@dataclass(frozen=True, kw_only=True)
class LookRequest:
    """A prompt to be traced.

    Attributes:
        fact: prompt and subject; the target does not matter.
        kind: what is restored: "hidden", "mlp" or "attention".
        samples: noises.
        noise: standard deviation of the noise, in those of the subject's embeddings.
        seed: of the noise.
    """

    fact: Fact
    kind: str = "hidden"
    samples: int = 10
    noise: float = 3.0
    seed: int = 0


def trace(
    request: LookRequest,
    editor: Editor,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    partly: Told = untold,
) -> dict[str, Any]:
    """Causal trace of one prompt by the model as it is now, told token by token.

    Returns:
        Tokens, and of each what restoring its state in each layer gives back of the answer's
        probability: JSON values. `partly` is told the same with fewer rows.

    Raises:
        Cancelled: `cancel` was set.
        ModelError: the model cannot be run in parts.
        UnknownNameError: no such kind.
    """
    from alphaedit.locate.trace import trace_prompt

    progress = watched(progress, cancel)
    progress("tracing", 0, 1)
    traced = trace_prompt(
        editor.handle,
        request.fact,
        kind=request.kind,
        samples=request.samples,
        noise=request.noise,
        seed=request.seed,
    )
    total = len(traced.tokens)
    known: dict[str, Any] = {
        "kind": traced.kind,
        "window": traced.window,
        "prompt": request.fact.text,
        "tokens": list(traced.tokens),
        "subject": traced.subject,
        "answer": traced.answer,
        "clean": traced.clean,
        "corrupted": traced.corrupted,
        "layers": editor.handle.n_layers,
        "rows": [],
    }
    partly(known)
    for number, row in enumerate(traced.rows, start=1):
        known = {**known, "rows": [*known["rows"], row.tolist()]}
        partly(known)
        progress("tracing", number, total)
    return known


def spectra(
    editor: Editor,
    layers: Sequence[int] | None = None,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    partly: Told = untold,
) -> dict[str, Any]:
    """Eigenvalues of the keys' second moments, and the null space that they leave, by layer.

    Args:
        editor: the model without edits.
        layers: which; by default those that its preset edits, or all.
        progress: is told how far it is.
        cancel: stops it.
        partly: is told the layers that are done.

    Raises:
        Cancelled: `cancel` was set.
        StatsError, ModelError: with the remedy.
    """
    from alphaedit.jobs.stats import chosen_space

    progress = watched(progress, cancel)
    chosen, space = chosen_space(editor.handle, tuple(layers) if layers else None, None, None)
    statistics = editor.statistics
    earlier, statistics.progress = statistics.progress, progress
    rows: list[dict[str, Any]] = []
    try:
        statistics.prepare(chosen)
        for number, layer in enumerate(chosen):
            progress("null spaces", number, len(chosen))
            site = statistics.busiest(layer)
            (report,) = statistics.report([site], **space)
            values = statistics.spectrum(site).values.clamp_min(0).tolist()
            rows.append({"layer": layer, "values": thinned(values), **asdict(report)})
            partly({"layers": list(rows), **space})
        progress("null spaces", len(chosen), len(chosen))
    finally:
        statistics.progress = earlier
    return {"layers": rows, **space}


def thinned(values: Sequence[float], most: int = POINTS) -> list[float]:
    """At most so many of the values, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    step = (len(values) - 1) / (most - 1)
    return [values[round(number * step)] for number in range(most)]


def where(editor: Editor, edit: Edit, learned: Learned) -> dict[str, Any]:
    """Where the change of an edit went, by matrix and fact: JSON values.

    Args:
        editor: the model without edits.
        edit: of it.
        learned: what it taught; its keys say how much each fact moves each layer.

    Returns:
        For each matrix its rank, the norm of the change as a share of the matrix's, and for each
        fact how far it moves what the matrix makes of the fact's key, as a share of that.
    """
    from alphaedit.linalg.lowrank import frobenius

    handle = editor.handle
    names = {
        handle.edited_name(site): (layer, site)
        for layer in range(handle.n_layers)
        for site in handle.sites(layer)
    }
    rows = []
    for name, change in edit.patch.weights.items():
        layer, site = names.get(name, (None, None))
        norm = frobenius(change)
        row: dict[str, Any] = {"matrix": name, "layer": layer, "rank": change.rank, "norm": norm}
        if site is not None:
            weight = handle.weight(site)
            row["share"] = norm / float(weight.float().norm())
            if isinstance(site, int):
                row["facts"] = _by_fact(editor, edit, learned, site, name)
        report: Mapping[str, Any] = edit.null_space.get(name, {})
        row |= {key: report[key] for key in ("dim", "d_in", "energy_left") if key in report}
        rows.append(row)
    other = [f"{change.name}: {len(change.owner)} rows" for change in edit.patch.changes]
    return {
        "edit": edit.id,
        "method": edit.method,
        "facts": [f"{fact.text} → {fact.target}" for fact in edit.facts],
        "matrices": rows,
        "others": other,
    }


def _by_fact(editor: Editor, edit: Edit, learned: Learned, layer: int, name: str) -> list[float]:
    """|ΔW k| / |W k| of each fact's key; empty where the keys are not known fact by fact."""
    keys = learned.keys.get(layer)
    if keys is None or keys.shape[1] != len(edit.facts):
        return []
    change = edit.patch.weights[name]
    moved = change.left.float() @ (change.right.float() @ keys.float())
    was = editor.handle.times_weight(layer, keys).float()
    shares = (moved.norm(dim=0) / was.cpu().norm(dim=0).clamp_min(1e-30)).tolist()
    return [share if math.isfinite(share) else 0.0 for share in shares]
