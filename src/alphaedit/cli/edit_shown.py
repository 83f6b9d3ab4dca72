"""What `alphaedit edit` prints at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alphaedit.cli import tables
from alphaedit.cli.output import Session
from alphaedit.core.errors import GuardError
from alphaedit.methods.presets import entry

if TYPE_CHECKING:
    from alphaedit.core.edit import Edit
    from alphaedit.jobs.edit import EditResult

SCALES = ("clamp", "learning_rate", "steps")


def show_guard(session: Session, stopped: GuardError | None, made: Sequence[Edit]) -> None:
    """What the guard measured last, and why it ended a run."""
    if made and made[-1].drift:
        drift = made[-1].drift
        session.say(
            f"Held-out text: KL {drift['kl']:.4f} nats a token, perplexity "
            f"{drift['perplexity_before']:.2f} before and {drift['perplexity']:.2f} now."
        )
    if stopped is not None:
        session.say(f"Guard: {stopped}", style="red")


def show(session: Session, edited: EditResult, result: dict[str, Any]) -> None:
    """Tables of facts and metrics, null spaces, times, and what was written."""
    if session.json:
        return
    count = len(edited.facts)
    title = f"{count} {'fact' if count == 1 else 'facts'} by {result['method']}"
    session.say(*tables.facts_table(edited.facts, edited.before, edited.after, title))
    session.say(*tables.metrics_table({"unedited": result["before"], "edited": result}, "Metrics"))
    layers = result["hyperparameters"]["layers"]
    for layer, row in zip(layers, edited.made[-1].null_space.values(), strict=False):
        session.say(
            f"Layer {layer}: null space {row['dim']} of {row['d_in']}, "
            f"{100 * row['energy_left']:.2f} % of the keys' energy left in it."
        )
    measured = edited.made[-1].measured.get("values", {})
    layers = ", ".join(map(str, measured.get("layers", ())))
    told = [f"layers {layers}"] if layers else []
    told += [f"{k.replace('_', ' ')} {measured[k]:.3g}" for k in SCALES if k in measured]
    if told:
        session.say(f"No preset fits this model; measured on it and kept: {', '.join(told)}.")
    if edited.preset and "transferred" in (preset := entry(edited.preset)):
        session.say(
            f"Preset {edited.preset} comes from {preset['transferred']} and was not tried on this "
            "model: --preset measured looks at the model itself.",
            style="yellow",
        )
    session.say(tables.seconds_line(edited.seconds))
    show_guard(session, edited.stopped, edited.made)
    for name, path in edited.written.items():
        if path is not None:
            what = {"out": "Ledger", "checkpoint": "Model", "report": "Report"}[name]
            session.say(f"{what} written to {path}")
    if result["dry_run"]:
        session.say(
            "Dry run: nothing was saved. Give -o DIR to keep the edits, --checkpoint DIR for an "
            "edited model.",
            style="yellow",
        )
