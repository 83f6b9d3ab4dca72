"""A ledger as plain lists, made-up edits, and writers that are killed."""

import os
import random
import signal
from pathlib import Path

import torch

from alphaedit.core.edit import Answer, Edit, edit_id
from alphaedit.core.errors import LedgerError
from alphaedit.core.fact import Fact
from alphaedit.core.patch import LowRank, Patch
from alphaedit.ledger import journal
from alphaedit.ledger.check import sweep
from alphaedit.ledger.history import version_of
from alphaedit.ledger.ledger import Ledger
from alphaedit.ledger.squash import squash
from alphaedit.methods.state import Learned

BASE = "0" * 64
Kept = tuple[Edit, Learned]


def make(number: int, *, prompt: str = "", target: str = "new", parent: str | None = None) -> Kept:
    """An edit of a 4 x 3 matrix; equal numbers give equal edits."""
    generator = torch.Generator().manual_seed(number)
    change = LowRank(torch.randn(4, 1, generator=generator), torch.randn(1, 3, generator=generator))
    facts = (Fact(prompt or f"Number {number} of {{}} is", "edits", target),)
    patch = Patch({"a.weight": change})
    edit = Edit(
        id=edit_id(patch, facts, parent),
        created="2026-01-01T00:00:00+00:00",
        method="made-up",
        hyperparameters={},
        facts=facts,
        patch=patch,
        base=BASE,
        parent=parent,
        before=(Answer("old", 0.1),),
        after=(Answer("new", 0.9),),
    )
    keys = torch.randn(3, 1, generator=generator)
    memory = {"sum": torch.tensor(float(number))}
    return edit, Learned(("a text",), {2: keys}, 1, memory, ("sum",))


class Plain:
    """What a ledger should hold: lists and sets, nothing on disk."""

    def __init__(self) -> None:
        self.versions: list[list[str]] = [[]]
        self.kept: set[str] = set()

    @property
    def head(self) -> list[str]:
        return self.versions[-1]

    def copy(self) -> "Plain":
        other = Plain()
        other.versions, other.kept = list(self.versions), set(self.kept)
        return other

    def now(self, edits: list[str]) -> None:
        self.versions.append(edits)
        self.kept.update(edits)

    def idle(self) -> list[str]:
        return sorted(self.kept - set(self.head))

    def same(self, ledger: Ledger) -> bool:
        history = ledger.history
        live = set(history.files) - set(history.pruned)
        return (
            [version.edits for version in history.versions] == self.versions
            and live == self.kept
            and history.head.id == version_of(BASE, self.head).id
        )


class Step:
    """One random operation, on a ledger and on the plain model."""

    def __init__(self, rng: random.Random, plain: Plain, number: int) -> None:
        self.plain = plain.copy()
        names = ["edit"] * 4 + ["revert"] * 3 + ["apply"] * 2 + ["checkout"] * 2
        self.op = rng.choice([*names, "squash", "gc"])
        head, idle = plain.head, plain.idle()
        if (self.op in ("revert",) and not head) or (self.op == "squash" and len(head) < 2):
            self.op = "edit"
        if self.op == "apply" and not idle:
            self.op = "edit"
        if self.op == "edit":
            self.add = [make(number * 10 + i) for i in range(rng.randint(1, 2))]
            self.plain.now([*head, *(edit.id for edit, _ in self.add)])
        elif self.op == "revert":
            self.ids = rng.sample(head, rng.randint(1, min(2, len(head))))
            self.plain.now([edit for edit in head if edit not in self.ids])
        elif self.op == "apply":
            self.ids = rng.sample(idle, 1)
            self.plain.now([*head, *self.ids])
        elif self.op == "checkout":
            live = [i for i, v in enumerate(plain.versions) if set(v) <= plain.kept]
            self.to = rng.choice(live)
            self.plain.now(plain.versions[self.to])
        elif self.op == "squash":
            self.last = rng.randint(2, min(4, len(head)))
        elif idle:
            self.plain.now(head)
            self.plain.kept -= set(idle)

    def run(self, ledger: Ledger) -> None:
        """Do it. What a squash is called is only known then."""
        if self.op == "edit":
            ledger.commit("edit", add=self.add)
        elif self.op == "revert":
            ledger.commit("revert", drop=self.ids)
        elif self.op == "apply":
            ledger.commit("apply", add=self.ids)
        elif self.op == "checkout":
            ledger.commit("checkout", start=self.to)
        elif self.op == "squash":
            head = ledger.head.edits
            ids = head[-self.last :]
            edit, learned, _ = squash([ledger.read(edit) for edit in ids])
            ledger.commit("squash", add=[(edit, learned)], drop=ids)
        else:
            sweep(ledger, prune=True)

    def expected(self, ledger: Ledger) -> Plain:
        """The plain model after it."""
        if self.op == "squash" and len(ledger.history.versions) > len(self.plain.versions):
            head = self.plain.head
            self.plain.now([*head[: -self.last], ledger.head.edits[-1]])
        return self.plain


def killed(step: Step, path: Path, after: int) -> bool:
    """Do a step in a process of its own that dies by SIGKILL at its `after`-th write.

    Returns:
        Whether it died; if it had fewer writes it has done all.
    """
    pid = os.fork()
    if pid == 0:
        try:
            _deadly(after)
            step.run(Ledger(path))
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        raise LedgerError(f"{step.op} failed by itself")
    return False


def _deadly(left: int) -> None:
    """Let this process die at its `left`-th change of the file system, half-way through a write."""

    def deadly(function):
        def wrapped(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    class Torn:
        def __init__(self, *args) -> None:
            self.file = open(*args)

        def __enter__(self):
            return self

        def __exit__(self, *trace) -> None:
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            nonlocal left
            left -= 1
            if left == 0:
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return self.file.write(data)

    journal.open = Torn  # type: ignore[attr-defined]
    for name in ("replace", "mkdir", "fsync", "unlink", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))
