"""Ledgers of others, whatever they hold: told what is wrong, nothing else touched, no waiting."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.forge import Forged, archived, good, mutated, tensors
from tests.fuzz import assert_told, both, profile, run_cli
from tests.ledgers import make

from alphaedit.ledger.archive import opened, pack, receive, unpack
from alphaedit.ledger.check import sweep, verify
from alphaedit.ledger.facts import difference, merge
from alphaedit.ledger.ledger import Ledger
from alphaedit.ledger.squash import squash
from alphaedit.methods.state import SequentialState

SECRET = "stays as it is"


class Place:
    """A room for one case: a good ledger, what was given, and things that must stay as they are."""

    def __init__(self, origin: Path, room: Path) -> None:
        self.room = room
        self.temporary, self.work = room / "tmp", room / "work"
        for folder in (self.temporary, self.work, room / "outside"):
            folder.mkdir(parents=True)
        (room / "outside" / "sentinel").write_text(SECRET)
        self.mine = Path(shutil.copytree(origin, room / "mine"))
        self.given = room / "given"

    def seen(self, *but: Path) -> dict[str, Any]:
        """All that lies in the room, but for what may be changed."""
        found: dict[str, Any] = {}
        for path in sorted(self.room.rglob("*")):
            if any(path == one or one in path.parents for one in but) or path.name == "lock":
                continue
            mode = path.lstat().st_mode
            found[str(path)] = path.read_bytes() if stat.S_ISREG(mode) else stat.S_IFMT(mode)
        return found


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good(tmp_path_factory.mktemp("origin") / "ledger").path


@pytest.fixture
def place(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Place]]:
    # Nobody loses power here, and a room is made for each of thousands of cases.
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torch"))
    number = 0

    def make_room() -> Place:
        nonlocal number
        shutil.rmtree(tmp_path / str(number), ignore_errors=True)
        number += 1
        room = Place(origin, tmp_path / str(number))
        monkeypatch.setattr(tempfile, "tempdir", str(room.temporary))
        monkeypatch.chdir(room.work)
        return room

    yield make_room
    assert number > 0


def forged_journal(data: st.DataObject, place: Place) -> None:
    forged = Forged(place.mine)
    for _ in range(data.draw(st.integers(1, 2))):
        number = data.draw(st.integers(0, len(forged.entries) - 1))
        forged.entries[number] = mutated(data, forged.entries[number])
    if data.draw(st.booleans()):
        forged.follow()
    forged.write(place.given)


def forged_edit(data: st.DataObject, place: Place) -> None:
    forged = Forged(place.mine)
    edit = data.draw(st.sampled_from(sorted(forged.files)))
    files = forged.files[edit]
    name = data.draw(st.sampled_from(sorted(files)))
    if name.endswith(".json"):
        files[name] = json.dumps(mutated(data, json.loads(files[name]))).encode()
    else:
        files[name] = tensors(data, files[name])
    if data.draw(st.booleans()):
        forged.rename(edit)
    forged.seal()
    forged.follow()
    forged.write(place.given)


def odd_folder(data: st.DataObject, place: Place) -> None:
    shutil.copytree(place.mine, place.given)
    there = sorted(place.given.rglob("*"))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(there))
        if path.parent.is_symlink() or not path.parent.is_dir():
            continue
        what = data.draw(
            st.sampled_from(["zero", "outside", "sentinel", "nothing", "fifo", "folder", "empty"])
        )
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if what == "fifo":
            os.mkfifo(path)
        elif what == "folder":
            path.mkdir()
        elif what == "empty":
            path.touch()
        else:
            targets = {"zero": "/dev/zero", "nothing": "nowhere"}
            path.symlink_to(targets.get(what, place.room / "outside" / what.replace("outside", "")))


FORGERS = {"journals": forged_journal, "edits": forged_edit, "folders": odd_folder}


def use_names(ledger: Ledger) -> None:
    history = ledger.history
    for name in ("last", "base", "head", "head~1", "@1", "@3", "7", "", *list(history.files)[:2]):
        assert_told(lambda name=name: history.entry(name))
        assert_told(lambda name=name: history.edit(name))


def use(ledger: Ledger, place: Place) -> None:
    """All that Python callers do with a ledger that could be opened."""
    before = place.seen()
    use_names(ledger)
    history = ledger.history
    whole = not assert_told(lambda: verify(ledger)).problems
    for edit in list(history.files)[:3]:
        assert_told(lambda edit=edit: ledger.read(edit))
    for name in ("head", "base", "@3"):
        assert_told(lambda name=name: said(ledger, ledger.history.entry(name)))
    assert_told(lambda: squash(ledger.edits()))
    assert_told(lambda: SequentialState.of(learned for _, learned in ledger.edits()))
    assert_told(lambda: sweep(ledger, dry_run=True, prune=True))
    assert place.seen() == before
    packed = place.work / "packed.tgz"
    assert_told(lambda: pack(ledger, packed))
    again = assert_told(lambda: unpack(packed, place.work / "again")) if packed.exists() else None
    if whole:
        assert isinstance(again, Ledger)
        assert again.head.id == ledger.head.id
    mine = Ledger(place.mine)
    assert_told(lambda: difference(said(mine), said(ledger)))
    plan = assert_told(lambda: merge(said(mine), said(ledger), take="theirs"))
    if not isinstance(plan, Exception):
        add, drop = plan.add, plan.drop
        assert_told(lambda: mine.commit("merge", add=add, drop=drop, source=ledger))
    assert verify(mine).problems == []
    write(ledger, place)


def said(ledger: Ledger, number: int = -1) -> list[Any]:
    edits = ledger.history.versions[number].edits
    return [(edit, ledger.store.facts(edit, ledger.files_of(edit))) for edit in edits]


def write(ledger: Ledger, place: Place) -> None:
    """What writes into the ledger itself, and nowhere else."""
    before = place.seen(place.given)
    assert_told(lambda: sweep(ledger))
    assert_told(lambda: ledger.commit("edit", add=[make(50)]))
    assert_told(lambda: ledger.commit("revert", drop=ledger.head.edits[:1]))
    assert_told(lambda: ledger.commit("checkout", start=1))
    assert_told(lambda: sweep(ledger, prune=True))
    assert place.seen(place.given) == before


@both(20)
@pytest.mark.parametrize("kind", sorted(FORGERS))
def test_python_with_a_forged_ledger(
    kind: str, count: int, place: Callable[[], Place]
) -> None:  # findings 14, 16
    @profile(count)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        room = place()
        FORGERS[kind](data, room)
        before = room.seen(room.work)
        ledger = assert_told(lambda: Ledger(room.given))
        assert_told(lambda: receive(room.given, room.work / "got"))
        assert_told(lambda: receive(room.given, room.work / "got"))
        assert room.seen(room.work) == before
        assert_told(lambda: receive(room.given, room.mine))
        assert verify(Ledger(room.mine)).problems == []
        if isinstance(ledger, Ledger):
            use(ledger, room)
        assert list(room.temporary.iterdir()) == []

    one()


READING = [
    ["verify", "GIVEN"],
    ["log", "GIVEN"],
    ["show", "GIVEN"],
    ["show", "GIVEN", "@1"],
    ["status", "GIVEN"],
    ["diff", "GIVEN", "base", "head"],
    ["diff", "GIVEN", "@2", "@3"],
    ["gc", "GIVEN", "--dry-run", "--prune"],
    ["pack", "GIVEN", "WORK/packed.tar"],
    ["merge", "MINE", "GIVEN", "--no-measure", "--take", "theirs"],
]
WRITING = [
    ["apply", "GIVEN", "@3", "--no-measure"],
    ["revert", "GIVEN", "--no-measure"],
    ["revert", "GIVEN", "@1", "--no-measure"],
    ["checkout", "GIVEN", "@2"],
    ["checkout", "GIVEN", "base"],
    ["squash", "GIVEN"],
    ["gc", "GIVEN", "--prune"],
    ["gc", "GIVEN"],
    ["merge", "GIVEN", "MINE", "--no-measure", "--take", "ours"],
]


def command(data: st.DataObject, commands: list[list[str]], place: Place) -> None:
    names = {"GIVEN": place.given, "MINE": place.mine, "WORK": place.work}
    argv = list(data.draw(st.sampled_from(commands)))
    for name, path in names.items():
        argv = [part.replace(name, str(path)) for part in argv]
    run_cli([*argv, *(["--json"] if data.draw(st.booleans()) else [])])


@both(20)
@pytest.mark.parametrize("kind", sorted(FORGERS))
def test_commands_with_a_forged_ledger(
    kind: str, count: int, place: Callable[[], Place]
) -> None:  # findings 14, 16
    @profile(count)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        room = place()
        FORGERS[kind](data, room)
        before = room.seen(room.work, room.mine)
        for _ in range(2):
            command(data, READING, room)
        assert room.seen(room.work, room.mine) == before
        before = room.seen(room.work, room.given)
        for _ in range(2):
            command(data, WRITING, room)
        assert room.seen(room.work, room.given) == before
        assert verify(Ledger(room.mine)).problems == []
        assert list(room.temporary.iterdir()) == []

    one()


@both(60)
def test_archives(count: int, place: Callable[[], Place]) -> None:  # finding 14
    @profile(count)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        room = place()
        file = room.room / "given.tgz"
        file.write_bytes(archived(data, room.mine))
        before, rest = room.seen(room.work), room.seen(room.work, room.mine)
        found = assert_told(lambda: unpack(file, room.work / "a"))
        if isinstance(found, Ledger):
            assert verify(found).problems == []
        else:
            assert not list(room.work.rglob("*"))
            assert str(room.room / "given.tgz") in str(found)
            assert str(room.temporary) not in str(found)
            assert ".part-" not in str(found)

        def enter() -> str:
            with opened(file) as ledger:
                return ledger.head.id

        assert_told(enter)
        assert room.seen(room.work) == before
        wanted = 0 if isinstance(found, Ledger) else 1
        assert run_cli(["unpack", str(file), str(room.work / "b")])[0] == wanted
        assert run_cli(["merge", str(room.mine), str(file), "--no-measure"])[0] == wanted
        assert room.seen(room.work, room.mine) == rest
        assert list(room.temporary.iterdir()) == []

    one()
