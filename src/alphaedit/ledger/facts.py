"""What lists of edits say: facts in force, differences, contradictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from alphaedit.core.errors import ConflictError, unknown_name
from alphaedit.core.fact import Fact, canonical

SIDES = ("ours", "theirs")
Said = tuple[str, Sequence[Fact]]
"""Id of an edit, and its facts."""


@dataclass(frozen=True)
class Held:
    """A fact, and the edit that brought it."""

    fact: Fact
    edit: str

    def says(self, other: Held) -> bool:
        """Whether both give the same object."""
        return canonical(self.fact.target) == canonical(other.fact.target)


@dataclass(frozen=True)
class Change:
    """What two versions say of one prompt.

    Attributes:
        prompt: the prompt.
        before: the new object in the first version; None if it says nothing.
        after: the same in the second.
        edit: id of the edit that says so, in the second version if it says something.
    """

    prompt: str
    before: str | None
    after: str | None
    edit: str


def in_force(edits: Iterable[Said]) -> dict[str, Held]:
    """The facts that hold after these edits, by prompt; of two of one prompt the later."""
    by_prompt: dict[str, Held] = {}
    for edit, facts in edits:
        for fact in facts:
            by_prompt[canonical(fact.text)] = Held(fact, edit)
    return by_prompt


def difference(a: Iterable[Said], b: Iterable[Said]) -> list[Change]:
    """Prompts of which two versions say different things."""
    first, second = list(a), list(b)
    pairs = zip(first, second, strict=False)
    same = next((i for i, (x, y) in enumerate(pairs) if x[0] != y[0]), min(len(first), len(second)))
    ends = [in_force(first[same:]), in_force(second[same:])]
    # What both begin with counts only where one of the ends speaks of the same prompt.
    spoken = ends[0].keys() | ends[1].keys()
    begun = {
        prompt: Held(fact, edit)
        for edit, facts in first[:same]
        for fact in facts
        if (prompt := canonical(fact.text)) in spoken
    }
    before, after = ({**begun, **end} for end in ends)
    changes = []
    for prompt in {**before, **after}:
        old, new = before.get(prompt), after.get(prompt)
        latest = new or old
        if latest is None or (old and new and old.says(new)):
            continue
        targets = [side.fact.target if side else None for side in (old, new)]
        changes.append(Change(latest.fact.text, targets[0], targets[1], latest.edit))
    return changes


@dataclass(frozen=True)
class Clash:
    """One prompt of which edits of two ledgers speak.

    Attributes:
        ours: what we say.
        theirs: what they say.
        same: whether it is the same; applied twice, it would be overdone.
    """

    ours: Held
    theirs: Held
    same: bool

    def __str__(self) -> str:
        both = (
            f"{self.theirs.fact.target!r} twice"
            if self.same
            else (
                f"{self.ours.fact.target!r} (ours, {self.ours.edit}) or "
                f"{self.theirs.fact.target!r} (theirs, {self.theirs.edit})"
            )
        )
        return f"{self.ours.fact.text!r}: {both}"


@dataclass(frozen=True)
class Merge:
    """What a merge does.

    Attributes:
        add: edits of theirs that come into force.
        drop: edits of ours that do not stay.
        skip: edits of theirs that are left out.
        clashes: what was decided.
        lost: facts that nobody contradicted and that are left out with their edit.
    """

    add: tuple[str, ...]
    drop: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    clashes: tuple[Clash, ...] = ()
    lost: tuple[Held, ...] = field(default=())


def merge(
    ours: Sequence[Said],
    theirs: Sequence[Said],
    *,
    take: str | None = None,
    resolve: Mapping[str, str] | None = None,
) -> Merge:
    """How to bring edits of theirs into force beside ours.

    Edits are taken or left whole: facts of one batch were solved together.

    Args:
        ours: our edits in force.
        theirs: theirs; edits that we have are passed over.
        take: "ours" or "theirs", for all prompts that both speak of.
        resolve: the same for single edits, ours or theirs, by id.

    Raises:
        UnknownNameError: an unknown side.
        ConflictError: both speak of a prompt and nothing says who is right; all are listed.
    """
    resolve = dict(resolve or {})
    for side in (take, *resolve.values()):
        if side is not None and side not in SIDES:
            raise unknown_name("side", side, SIDES)
    known = {edit for edit, _ in ours}
    new = [(edit, facts) for edit, facts in theirs if edit not in known]
    decided, drop, skip = _decided(in_force(ours), new, take, resolve)
    settled = {canonical(clash.theirs.fact.text) for clash in decided}
    lost = [
        Held(fact, edit)
        for edit, facts in (*((e, f) for e, f in new if e in skip), *ours)
        if edit in skip or edit in drop
        for fact in facts
        if canonical(fact.text) not in settled
    ]
    return Merge(
        add=tuple(edit for edit, _ in new if edit not in skip),
        drop=tuple(edit for edit, _ in ours if edit in drop),
        skip=tuple(edit for edit, _ in new if edit in skip),
        clashes=tuple(decided),
        lost=tuple(lost),
    )


def _decided(
    mine: Mapping[str, Held], new: Sequence[Said], take: str | None, resolve: Mapping[str, str]
) -> tuple[list[Clash], set[str], set[str]]:
    """Prompts that both speak of, which of our edits that drops, and which of theirs it skips."""
    drop: set[str] = set()
    skip: set[str] = set()
    decided: list[Clash] = []
    open_: list[Clash] = []
    for edit, facts in new:
        clashes = [
            Clash(ours, new_, ours.says(new_))
            for fact in facts
            if (ours := mine.get(canonical(fact.text))) and (new_ := Held(fact, edit))
        ]
        if clashes and len(clashes) == len(facts) and all(clash.same for clash in clashes):
            skip.add(edit)
            decided += clashes
            continue
        for clash in clashes:
            side = resolve.get(edit) or resolve.get(clash.ours.edit) or take
            if side is None:
                open_.append(clash)
                continue
            decided.append(clash)
            if side == "ours":
                skip.add(edit)
            else:
                drop.add(clash.ours.edit)
    if open_:
        listed = "\n".join(f"  {clash}" for clash in open_)
        raise ConflictError(
            f"Both speak of {len(open_)} prompt{'s' if len(open_) > 1 else ''}:\n{listed}",
            remedy="Say who is right: --take ours, --take theirs, or --resolve EDIT=ours for "
            "single edits. Nothing was changed.",
        )
    return decided, drop, skip
