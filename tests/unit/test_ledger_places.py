"""What a ledger's files may be: their size, no pipes or links; and reading without a lock."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from tests.forge import Forged, good
from tests.fuzz import in_time, run_cli
from tests.ledgers import BASE, make

from alphaedit.core import schema
from alphaedit.core.errors import ConfigError, LedgerError, ResourceError
from alphaedit.core.marks import digest
from alphaedit.ledger import archive, journal
from alphaedit.ledger.check import sweep, verify
from alphaedit.ledger.ledger import Ledger

ID = "a" * 16


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good(tmp_path_factory.mktemp("origin") / "ledger").path


@pytest.fixture
def ledger(origin: Path, tmp_path: Path) -> Ledger:
    return Ledger(shutil.copytree(origin, tmp_path / "ledger"))


def test_limits_of_a_journal(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ledger.path / "journal.jsonl"
    size = path.stat().st_size
    monkeypatch.setattr(journal, "MAX_JOURNAL", size + 10)
    with pytest.raises(ResourceError, match="grow past") as told:
        ledger.commit("edit", add=[make(9)])
    assert "Squash" in str(told.value)
    assert path.stat().st_size == size
    monkeypatch.setattr(journal, "MAX_JOURNAL", size - 1)
    with pytest.raises(LedgerError, match=r"journal.jsonl is larger than .* the limit"):
        Ledger(ledger.path)
    monkeypatch.undo()
    monkeypatch.setattr(journal, "MAX_LINE", 500)
    with pytest.raises(LedgerError, match=r"line 2, is longer than .* the limit"):
        Ledger(ledger.path)
    with pytest.raises(ResourceError, match="the limits"):
        Ledger.create(ledger.path.with_name("new"), BASE, why="x" * 600)


def test_limits_of_an_edit(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = ledger.head.edits[0]
    monkeypatch.setattr(schema, "MAX_JSON", 100)
    monkeypatch.setattr("alphaedit.ledger.store.MAX_JSON", 100)
    with pytest.raises(LedgerError, match=r"edit.json is larger than .* the limit"):
        ledger.read(edit)
    before = list(ledger.store.ids())
    with pytest.raises(ResourceError, match=r"edit.json of edit .* the limit"):
        ledger.commit("edit", add=[make(9)])
    assert ledger.store.ids() == before
    assert ledger.store.litter() == []


@pytest.mark.parametrize("what", ["fifo", "zero", "folder"])
def test_journals_that_are_no_files(what: str, tmp_path: Path) -> None:  # finding 14
    place = tmp_path / "ledger"
    place.mkdir()
    path = place / "journal.jsonl"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "zero":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with in_time(5):
        assert not Ledger.at(place)
        with pytest.raises(LedgerError, match=r"journal.jsonl is no regular file"):
            Ledger(place)
        with pytest.raises(LedgerError, match=r"journal.jsonl is (no journal|a link)"):
            Ledger.create(place, BASE)
        for argv in (["log"], ["verify"], ["status"]):
            assert run_cli([*argv, str(place)])[0] == 1


@pytest.mark.parametrize("name", ["edit.json", "state.safetensors"])
def test_edits_that_are_no_files(name: str, ledger: Ledger) -> None:
    path = ledger.store.folder(ledger.head.edits[0]) / name
    path.unlink()
    os.mkfifo(path)
    with in_time(5), pytest.raises(LedgerError, match=name):
        ledger.read(ledger.head.edits[0])


def test_nothing_is_written_through_links(ledger: Ledger, tmp_path: Path) -> None:
    """Who gets a ledger with links in it by git or rsync does not write elsewhere with it."""
    theirs = Ledger(Forged(ledger.path).write(tmp_path / "theirs"))
    outside = tmp_path / "outside"
    (theirs.path / "edits").rename(outside)
    orphan = outside / ID
    orphan.mkdir()
    (theirs.path / "edits").symlink_to(outside)
    assert verify(theirs).problems == []
    for call in (
        lambda: sweep(theirs, prune=True),
        lambda: theirs.commit("edit", add=[make(9)]),
        lambda: theirs.commit("revert", drop=theirs.head.edits),
    ):
        with pytest.raises(LedgerError, match="edits is a link"):
            call()
    assert orphan.is_dir()
    assert sweep(theirs, dry_run=True).orphans == [ID]
    (theirs.path / "edits").unlink()
    outside.rename(theirs.path / "edits")
    target = tmp_path / "target"
    target.write_text("stays")
    (theirs.path / "lock").unlink(missing_ok=True)
    (theirs.path / "lock").symlink_to(target)
    with pytest.raises(LedgerError, match="lock is a link"):
        theirs.commit("edit", add=[make(9)])
    assert archive.pack(theirs, tmp_path / "x.tar")
    assert target.read_text() == "stays"


def test_what_lies_in_an_edit_does_not_come_to_life(ledger: Ledger, tmp_path: Path) -> None:
    """An edit's directory that a killed or hostile writer left is made anew, not added to."""
    edit, learned = make(9)
    folder = ledger.store.folder(edit.id)
    outside = tmp_path / "outside"
    outside.mkdir()
    for what in ("link", "plan"):
        if what == "link":
            folder.symlink_to(outside)
        else:
            new = folder / ".alphaedit.new"
            (new / "files").mkdir(parents=True)
            (new / "old").mkdir()
            plan = {"last": "", "names": ["../../../x"], "replaced": [], "stale": {}}
            (new / "plan.json").write_text(json.dumps(plan))
            (ledger.path / "x").write_text("here")
        ledger.commit("edit", add=[(edit, learned)])
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            ["edit.json", "patch.safetensors", "state.json", "state.safetensors"]
        )
        assert not folder.is_symlink()
        assert list(outside.iterdir()) == []
        ledger.commit("revert", drop=[edit.id])
        sweep(ledger, prune=True)
    assert ledger.store.litter() == []


def test_a_long_first_message(tmp_path: Path) -> None:
    """A first line of any length is seen, and not written over."""
    ledger = Ledger.create(tmp_path / "ledger", BASE, why="x" * 200_000)
    assert Ledger.at(ledger.path)
    with pytest.raises(LedgerError, match="already"):
        Ledger.create(ledger.path, BASE)


def test_a_file_of_that_name_stays(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("Dear diary")
    with pytest.raises(LedgerError, match="no journal of a ledger"):
        Ledger.create(tmp_path, BASE)
    assert (tmp_path / "journal.jsonl").read_text() == "Dear diary"


def test_a_message_that_is_no_text(ledger: Ledger) -> None:
    with pytest.raises(ConfigError, match="not Unicode"):
        ledger.commit("revert", drop=ledger.head.edits, why="a\udc80b")
    assert len(Ledger(ledger.path).history.entries) == 8


def test_reading_where_nothing_can_be_written(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # finding 21
    def refuse(*args: object, **more: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    path = tmp_path / "packed.tgz"
    assert run_cli(["pack", str(ledger.path), str(path)])[0] == 0
    assert run_cli(["gc", str(ledger.path), "--prune", "--dry-run"])[0] == 0
    for argv in (["log"], ["status"], ["show"], ["verify"], ["diff", "base"]):
        assert run_cli([argv[0], str(ledger.path), *argv[1:]])[0] == 0
    with pytest.raises(ResourceError, match="Read-only"):
        ledger.commit("revert", drop=ledger.head.edits)
    monkeypatch.undo()
    assert archive.unpack(path, tmp_path / "again").head.id == ledger.head.id


def test_packing_while_another_writes(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # finding 21
    """Without a lock, what is added after the journal was read stays out."""
    head, known = ledger.head.id, archive.parts

    def parts(given: Ledger) -> list[str]:
        found = known(given)
        Ledger(ledger.path).commit("edit", add=[make(9)])
        return found

    monkeypatch.setattr("alphaedit.ledger.lock._lock_to_read", lambda path: None)
    monkeypatch.setattr(archive, "parts", parts)
    archive.pack(ledger, tmp_path / "packed.tar")
    assert Ledger(ledger.path).head.id != head
    assert archive.unpack(tmp_path / "packed.tar", tmp_path / "again").head.id == head


@pytest.mark.parametrize("how", ["names", "stale", "link", "above", "types"])
def test_a_folder_that_claims_to_be_half_written(how: str, tmp_path: Path) -> None:
    """Who writes into a folder of others does not move or delete files elsewhere by it."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("stays")
    place = tmp_path / "a" / "b"
    new = place / ".alphaedit.new"
    (new / "files").mkdir(parents=True)
    (new / "old").mkdir()
    (new / "files" / "x").write_text("new")
    out = "../../mine/thesis"
    plan: dict[str, object] = {"last": "", "names": ["x"], "replaced": [], "stale": {}}
    if how == "names":
        plan |= {"names": ["../../../../mine/thesis"], "replaced": [out]}
    elif how == "stale":
        plan["stale"] = {out: digest(mine / "thesis")}
    elif how == "types":
        plan["names"] = [3]
    elif how == "above":
        (place / "sub").symlink_to(mine)
        plan["stale"] = {"sub/thesis": digest(mine / "thesis")}
    else:
        shutil.rmtree(new / "files")
        (new / "files").symlink_to(mine)
        plan["names"] = ["thesis"]
    (new / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ResourceError, match=r"alphaedit.new cannot be read"):
        make(1)[0].save(place)
    assert (mine / "thesis").read_text() == "stays"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "mine"]
