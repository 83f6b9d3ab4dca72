"""A ledger does what lists and sets would do, whatever is asked of it and whoever is killed."""

import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.ledgers import BASE, Plain, Step, killed, make

from alphaedit.core.errors import LedgerError
from alphaedit.ledger.check import sweep, verify
from alphaedit.ledger.ledger import Ledger
from alphaedit.ledger.squash import squash
from alphaedit.methods.state import SequentialState


class LedgerMachine(RuleBasedStateMachine):
    """Any sequence of commands leaves what the plain model says, also to who opens it anew."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.ledger = Ledger.create(Path(self.place.name) / "ledger", BASE)
        self.plain = Plain()
        self.count = 0

    def teardown(self) -> None:
        assert verify(self.ledger).problems == []
        self.place.cleanup()

    @rule(many=st.integers(1, 3))
    def edit(self, many: int) -> None:
        new = [make(self.count + i) for i in range(many)]
        self.count += many
        self.ledger.commit("edit", add=new)
        self.plain.now([*self.plain.head, *(edit.id for edit, _ in new)])

    @precondition(lambda self: self.plain.head)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        head = self.plain.head
        gone = data.draw(st.sets(st.sampled_from(head), min_size=1))
        self.ledger.commit("revert", drop=sorted(gone))
        self.plain.now([edit for edit in head if edit not in gone])

    @precondition(lambda self: self.plain.idle())
    @rule(data=st.data())
    def apply(self, data: st.DataObject) -> None:
        edit = data.draw(st.sampled_from(self.plain.idle()))
        self.ledger.commit("apply", add=[edit])
        self.plain.now([*self.plain.head, edit])

    @precondition(lambda self: self.plain.head)
    @rule(data=st.data())
    def apply_what_is_in_force(self, data: st.DataObject) -> None:
        edit = data.draw(st.sampled_from(self.plain.head))
        try:
            self.ledger.commit("apply", add=[edit, edit])
        except LedgerError:
            return
        raise AssertionError("an edit was applied twice")

    @rule(data=st.data())
    def checkout(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.plain.versions) - 1))
        wanted = self.plain.versions[number]
        if set(wanted) <= self.plain.kept:
            self.ledger.commit("checkout", start=number)
            self.plain.now(wanted)

    @precondition(lambda self: len(self.plain.head) > 1)
    @rule()
    def squash(self) -> None:
        head = self.plain.head
        one, learned, _ = squash(self.ledger.edits())
        self.ledger.commit("squash", add=[(one, learned)], drop=head)
        self.plain.now([one.id])

    @rule()
    def prune(self) -> None:
        idle = self.plain.idle()
        assert list(sweep(self.ledger, prune=True).pruned) == idle
        if idle:
            self.plain.now(self.plain.head)
            self.plain.kept -= set(idle)

    @invariant()
    def as_the_plain_model(self) -> None:
        assert self.plain.same(self.ledger)
        anew = Ledger(self.ledger.path)
        assert self.plain.same(anew)
        kept = anew.edits()
        assert [edit.id for edit, _ in kept] == self.plain.head
        assert SequentialState.of(learned for _, learned in kept).edits >= len(kept)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=15,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def random_operations(folder: Path, *, ledgers: int, each: int, share: float, seed: int) -> int:
    """Random operations, some killed at a random write; the number of those that died."""
    rng = random.Random(seed)
    died = 0
    for index in range(ledgers):
        path = folder / str(index)
        ledger, plain = Ledger.create(path, BASE), Plain()
        for number in range(each):
            step = Step(rng, plain, number)
            if rng.random() < share:
                if killed(step, path, rng.randint(1, 12)):
                    died += 1
                anew = Ledger(path)
                assert verify(anew).problems == []
                plain = plain if plain.same(anew) else step.expected(anew)
                assert plain.same(anew), f"{step.op} left neither the old nor the new"
            else:
                step.run(ledger)
                plain = step.expected(ledger)
                assert plain.same(ledger), step.op
        anew = Ledger(path)
        assert plain.same(anew)
        assert verify(anew).problems == []
        sweep(anew)
        assert anew.store.litter() == []
        assert set(anew.store.ids()) == plain.kept
    return died


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be killed")
@pytest.mark.parametrize(
    ("ledgers", "each"),
    [(4, 100), pytest.param(40, 250, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])],
)
def test_random_operations_and_kills(
    ledgers: int, each: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who is killed loses no page of the kernel; only a power failure would.
    monkeypatch.setattr(os, "fsync", lambda file: None)
    died = random_operations(tmp_path, ledgers=ledgers, each=each, share=0.15, seed=ledgers)
    assert died > ledgers * each * 0.05
