"""Facts to train an editor on: what they must have, and the prompts that tell how an edit went."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from alphaedit.core.errors import DataError
from alphaedit.core.fact import Fact
from alphaedit.model.handle import ModelHandle

LEAST = 8
"""Facts without which there is nothing to train and to measure on."""

Asked = tuple[str, str]
"""A prompt, and what follows it."""


def check_facts(handle: ModelHandle, facts: Sequence[Fact]) -> None:
    """Refuse facts that no editor can be trained on, before anything is computed.

    Raises:
        DataError: there are too few, they lack paraphrases or prompts whose answers should stay, or
            one is longer than the model reads; the message counts them and names the first.
    """
    if len({fact.subject for fact in facts}) < LEAST:
        raise DataError(
            f"An editor is trained on facts about {LEAST} subjects at least; these are about "
            f"{len({fact.subject for fact in facts})}.",
            remedy="Give more facts.",
        )
    for field, why in (
        ("paraphrases", "an edit is to hold in other words than its own"),
        ("neighborhood", "an edit is to leave other subjects alone"),
    ):
        without = [fact for fact in facts if not getattr(fact, field)]
        if without:
            raise DataError(
                f"{len(without)} of {len(facts)} facts have no {field}, the first about "
                f"{without[0].subject!r}: {why}.",
                remedy=f"Add {field}, or leave these facts out.",
            )
    _check_lengths(handle, facts)


def _check_lengths(handle: ModelHandle, facts: Sequence[Fact]) -> None:
    limit = handle.max_positions
    if limit is None:
        return
    for fact in facts:
        for prompt, target in (*inside(fact), *outside(fact)):
            before, after = handle.tokens.encode_continuation(prompt, target)
            if len(before) + len(after) > limit:
                raise DataError(
                    f"The fact about {fact.subject!r} has a prompt of {len(before):,} tokens and a "
                    f"target of {len(after):,}, and the model reads {limit:,}.",
                    remedy="Shorten or leave out that fact.",
                )


def inside(fact: Fact) -> list[Asked]:
    """Prompts that the edit is to answer with its target: its own, then its paraphrases."""
    return [(prompt, fact.target) for prompt in (fact.text, *fact.paraphrases)]


def outside(fact: Fact) -> list[Asked]:
    """Prompts whose answers are to stay, each with what it is read at.

    Neighborhood prompts are about other subjects with the same object, so that the old object
    follows them; where it is not known, the new one stands for it: what counts is the place.
    """
    answer = fact.truth or fact.target
    return [(prompt, answer) for prompt in fact.neighborhood]


@dataclass(frozen=True)
class Split:
    """Facts to train on, and facts about other subjects to measure on."""

    train: tuple[Fact, ...]
    held_out: tuple[Fact, ...]

    @classmethod
    def of(cls, facts: Sequence[Fact], held_out: int, seed: int) -> Split:
        """Set facts of some subjects aside, about `held_out` and a fifth of all at most."""
        most = min(held_out, len(facts) // 5) or 1
        subjects = sorted({fact.subject for fact in facts})
        random.Random(seed).shuffle(subjects)
        counts: dict[str, int] = {}
        for fact in facts:
            counts[fact.subject] = counts.get(fact.subject, 0) + 1
        aside: set[str] = set()
        total = 0
        for subject in subjects:
            if total >= most or len(aside) == len(subjects) - 1:
                break
            aside.add(subject)
            total += counts[subject]
        train = tuple(fact for fact in facts if fact.subject not in aside)
        return cls(train, tuple(fact for fact in facts if fact.subject in aside))


def chosen(facts: Sequence[Fact], step: int, batch: int, seed: int) -> list[Fact]:
    """The facts of step number `step`: all in turn, in an order that is new each time round."""
    batch = min(batch, len(facts))
    picked: list[Fact] = []
    at = step * batch
    while len(picked) < batch:
        turn, place = divmod(at, len(facts))
        order = list(range(len(facts)))
        random.Random(f"{seed}/{turn}").shuffle(order)
        taken = order[place : place + batch - len(picked)]
        picked += [facts[i] for i in taken]
        at += len(taken)
    return picked


@dataclass(frozen=True)
class Rows:
    """Prompts of a step, and whose edit is in force at each.

    Attributes:
        asked: first those that are to be answered anew, then those whose answers are to stay.
        owner: number of the edit, for each.
        inside: how many are of the first kind.
    """

    asked: tuple[Asked, ...]
    owner: tuple[int, ...]
    inside: int

    @classmethod
    def drawn(
        cls, facts: Sequence[Fact], neighbors: int, rng: random.Random, *, own: float = 0.5
    ) -> Rows:
        """One prompt of each fact, its own in a share `own`; and `neighbors` whose answers stay."""
        anew = [
            (first if rng.random() < own else rng.choice(others), i)
            for i, (first, *others) in enumerate(map(inside, facts))
        ]
        stay = [
            (asked, i)
            for i, fact in enumerate(facts)
            for asked in rng.sample(outside(fact), min(neighbors, len(fact.neighborhood)))
        ]
        every = (*anew, *stay)
        return cls(tuple(a for a, _ in every), tuple(i for _, i in every), len(anew))
