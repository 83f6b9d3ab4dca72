"""Try edits out: what they change, what moves nearby, and how far the model drifts."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from alphaedit.core import defaults
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched

if TYPE_CHECKING:
    from alphaedit.core.edit import Answer, Edit
    from alphaedit.editor.measured import Asked
    from alphaedit.editor.session import Editor
    from alphaedit.methods.state import Learned
    from alphaedit.stats.drift import Drift, HeldOut

WellKnown = tuple[str, str, str]
"""Subject, prompt and object."""
NEAR = 60
"""Facts asked before and after of each kind that should stay."""


@dataclass(frozen=True, kw_only=True)
class PreviewRequest:
    """Edits that are tried out.

    Attributes:
        facts: the facts.
        method: name of an editing method.
        preset: name of a preset; by default the one that fits the model.
        hyperparameters: single values in place of the preset's.
        batch_size: facts of a batch; all of them by default.
        chat: ask in a conversation.
        seed: of what is asked nearby.
    """

    facts: Sequence[Fact]
    method: str = defaults.METHOD
    preset: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    chat: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Probe:
    """A prompt whose answer is asked before and after.

    Attributes:
        kind: "paraphrase" should follow the edit; "neighbor", "in force" and "well known" stay.
        fact: prompt, and the answer that is looked for.
    """

    kind: str
    fact: Fact


@dataclass(frozen=True)
class Moved:
    """What the model says to a probe before and after."""

    probe: Probe
    before: Asked
    after: Asked

    @property
    def right(self) -> bool:
        """Whether it is as it should be: paraphrases say the target, all others what they said."""
        if self.probe.kind == "paraphrase":
            return self.after.holds
        return not self.before.holds or self.after.holds

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "kind": self.probe.kind,
            "prompt": self.probe.fact.text,
            "wanted": self.probe.fact.target,
            "before": asdict(self.before.answer),
            "after": asdict(self.after.answer),
            "held_before": self.before.holds,
            "holds": self.after.holds,
            "right": self.right,
        }


@dataclass(frozen=True, kw_only=True)
class PreviewResult:
    """What the edits would do.

    Attributes:
        request: what was asked for.
        facts: as they were asked; in a conversation, if that was wanted.
        version: of the edits in force before, by its id in the ledger.
        made: the edits with what they taught, one for each batch.
        before: what the model said to the facts.
        asked: what it says with the edits.
        moved: all probes.
        drift: on held-out text, against the unedited model.
        drift_before: the same with the edits in force before.
        seconds: time by phase.
    """

    request: PreviewRequest
    facts: Sequence[Fact]
    version: str
    made: Sequence[tuple[Edit, Learned]] = field(repr=False)
    before: Sequence[Answer]
    asked: Sequence[Asked]
    moved: Sequence[Moved]
    drift: Drift
    drift_before: Drift
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """JSON values, without the edits themselves."""
        rows = zip(self.facts, self.before, self.asked, strict=True)
        last = self.made[-1][0]
        return {
            "method": last.method,
            "hyperparameters": dict(last.hyperparameters),
            "edits": [edit.id for edit, _ in self.made],
            "version": self.version,
            "facts": [
                {
                    **fact.to_dict(),
                    "text": fact.text,
                    "before": asdict(old),
                    "after": asdict(new.answer),
                    "holds": new.holds,
                }
                for fact, old, new in rows
            ],
            "holds": sum(reply.holds for reply in self.asked),
            "moved": [row.to_json() for row in self.moved],
            "drift": self.drift.to_json(),
            "drift_before": self.drift_before.to_json(),
            "null_space": {name: dict(row) for name, row in last.null_space.items()},
            "seconds": dict(self.seconds),
        }


def run(
    request: PreviewRequest,
    editor: Editor,
    held_out: HeldOut,
    well_known: Sequence[WellKnown] | None = None,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
) -> PreviewResult:
    """Edit, ask, and take the edits out again: the editor is as before, to the bit.

    Args:
        request: what to try.
        editor: the model with the edits in force; it tracks no ledger.
        held_out: text, and what the unedited model predicts on it.
        well_known: facts that the unedited model says; None for those of the bundled world.
        progress: is told how far it is.
        cancel: stops it.

    Raises:
        Cancelled: `cancel` was set.
        FactError, ConfigError, ModelError, ResourceError: with the remedy.
    """
    from alphaedit.ledger.history import version_of

    progress = watched(progress, cancel)
    facts, over = _as_asked(request, editor)
    start = editor.pairs()
    version = version_of(editor.base, (edit.id for edit, _ in start)).id
    clock = _Clock()
    with _telling(editor, progress):
        try:
            probes = probes_of(editor, facts, well_known, seed=request.seed)
            before = _asked(editor, probes, "asking before", progress)
            drift_before = held_out.drift(editor.handle)
            clock.spent("asking")
            _edit(editor, request, facts, over)
            clock.spent("editing")
            made = editor.pairs()[len(start) :]
            edited = [Probe("edit", fact) for fact in facts]
            asked = _asked(editor, edited, "asking after", progress)
            after = _asked(editor, probes, "asking nearby", progress)
            progress("drift", 0, 1)
            drift = held_out.drift(editor.handle)
            progress("drift", 1, 1)
            clock.spent("asking")
        finally:
            editor.set_edits(start)
    return PreviewResult(
        request=request,
        facts=facts,
        version=version,
        made=made,
        before=[answer for edit, _ in made for answer in edit.before],
        asked=asked,
        moved=[Moved(*row) for row in zip(probes, before, after, strict=True)],
        drift=drift,
        drift_before=drift_before,
        seconds=clock.seconds,
    )


def _as_asked(request: PreviewRequest, editor: Editor) -> tuple[list[Fact], dict[str, Any]]:
    """Facts and settings; in a conversation, if that is wanted."""
    from alphaedit.jobs.facts import Source, in_chat

    facts, over = list(request.facts), dict(request.hyperparameters)
    if not request.chat:
        return facts, over
    return list(in_chat(Source(facts), editor.handle).facts), {"contexts": 0, **over}


def _edit(
    editor: Editor, request: PreviewRequest, facts: Sequence[Fact], over: Mapping[str, Any]
) -> None:
    """Edit all facts, batch by batch."""
    from alphaedit.editor.batches import split

    batches = split(facts, request.batch_size or len(facts))
    how: dict[str, Any] = {"phase": "facts edited", "preset": request.preset, **over}
    list(editor.edit_in_batches(batches, request.method, **how))


@contextmanager
def _telling(editor: Editor, progress: Progress) -> Iterator[None]:
    """For the length of a block, what an editor does is told by `progress`."""
    before = editor.progress, editor.statistics.progress
    editor.progress = editor.statistics.progress = progress
    try:
        yield
    finally:
        editor.progress, editor.statistics.progress = before


def probes_of(
    editor: Editor,
    facts: Sequence[Fact],
    well_known: Sequence[WellKnown] | None = None,
    *,
    seed: int = 0,
) -> list[Probe]:
    """What is asked beside the facts: paraphrases, neighbors, facts in force, well-known ones.

    A neighbor's wanted answer is what the model says before; see `Moved.right`.
    """
    from alphaedit.bench.sources import kept_of
    from alphaedit.core.fact import canonical
    from alphaedit.ledger.facts import in_force

    probes = [
        Probe("paraphrase", Fact(text, text, fact.target))
        for fact in facts
        for text in fact.paraphrases
    ][: 2 * NEAR]
    near = list(dict.fromkeys(text for fact in facts for text in fact.neighborhood))[:NEAR]
    if near:
        probes += [Probe("neighbor", _as_it_is(editor, text)) for text in near]
    edited = {canonical(fact.text) for fact in facts}
    standing = in_force((edit.id, edit.facts) for edit in editor.edits)
    others = [s.fact for prompt, s in standing.items() if prompt not in edited]
    probes += [Probe("in force", fact) for fact in others[-NEAR:]]
    subjects = {fact.subject for fact in facts}
    if well_known is None:
        known = kept_of(editor.handle, subjects, seed, NEAR)
    else:
        known = [(text, truth) for subject, text, truth in well_known if subject not in subjects]
        known = random.Random(seed).sample(known, min(NEAR, len(known)))
    return probes + [Probe("well known", Fact(text, text, truth)) for text, truth in known]


def _as_it_is(editor: Editor, text: str) -> Fact:
    """A prompt with what the model says to it now as the answer that should stay."""
    from alphaedit.core.text import first_answer

    says = first_answer(editor.ask(text, 6), 3) or "?"
    return Fact(text, text, says)


def _asked(
    editor: Editor, probes: Sequence[Probe], phase: str, progress: Progress, size: int = 32
) -> list[Asked]:
    """Ask for probes, a few at a time."""
    replies: list[Asked] = []
    for at in range(0, len(probes), size):
        progress(phase, at, len(probes))
        replies += editor.asked([probe.fact for probe in probes[at : at + size]])
    progress(phase, len(probes), len(probes))
    return replies


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def spent(self, phase: str) -> None:
        """Since it was last asked, that phase took the time."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now
