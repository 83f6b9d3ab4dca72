"""What `alphaedit edit` prints at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.cli import tables
from alphaedit.cli.output import output_console
from alphaedit.core.errors import GuardError

if TYPE_CHECKING:
    from alphaedit.cli.edit import Run
    from alphaedit.core.edit import Edit

SCALES = ("clamp", "learning_rate", "steps")


def show_guard(stopped: GuardError | None, made: Sequence[Edit]) -> None:
    """What the guard measured last, and why it ended a run."""
    console = output_console()
    if made and made[-1].drift:
        drift = made[-1].drift
        console.print(
            f"Held-out text: KL {drift['kl']:.4f} nats a token, perplexity "
            f"{drift['perplexity_before']:.2f} before and {drift['perplexity']:.2f} now.",
            highlight=False,
            soft_wrap=True,
        )
    if stopped is not None:
        console.print(f"Guard: {stopped}", style="red", highlight=False, soft_wrap=True)


def show(run: Run, result: dict[str, Any], written: Mapping[str, Path | None]) -> None:
    """Tables of facts and metrics, null spaces, times, and what was written."""
    count = len(run.facts)
    title = f"{count} {'fact' if count == 1 else 'facts'} by {result['method']}"
    tables.facts_table(run.facts, run.before, run.after, title)
    tables.metrics_table({"unedited": result["before"], "edited": result}, "Metrics")
    console = output_console()
    layers = result["hyperparameters"]["layers"]
    for layer, row in zip(layers, run.made[-1].null_space.values(), strict=False):
        console.print(
            f"Layer {layer}: null space {row['dim']} of {row['d_in']}, "
            f"{100 * row['energy_left']:.2f} % of the keys' energy left in it.",
            highlight=False,
        )
    measured = run.made[-1].measured.get("values", {})
    if measured:
        told = [f"layers {', '.join(map(str, measured['layers']))}"]
        told += [f"{k.replace('_', ' ')} {measured[k]:.3g}" for k in SCALES if k in measured]
        console.print(
            f"No preset fits this model; measured on it and kept: {', '.join(told)}.",
            highlight=False,
            soft_wrap=True,
        )
    console.print(tables.seconds_line(run.seconds), highlight=False, soft_wrap=True)
    show_guard(run.stopped, run.made)
    for name, path in written.items():
        if path is not None:
            what = {"out": "Ledger", "checkpoint": "Model", "report": "Report"}[name]
            console.print(f"{what} written to {path}", highlight=False, soft_wrap=True)
    if result["dry_run"]:
        console.print(
            "Dry run: nothing was saved. Give -o DIR to keep the edits, --checkpoint DIR for an "
            "edited model.",
            style="yellow",
            soft_wrap=True,
        )
