"""Files appear whole; what we did not write stays, whoever is killed and whenever the disk is full.

Findings 1, 3 and 21.
"""

import dataclasses
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.deaths import acting, full, killed, snapshot
from tests.ledgers import make

from alphaedit.core import files, replace
from alphaedit.core.edit import Edit
from alphaedit.core.errors import ConfigError, EditFileError, ResourceError
from alphaedit.core.files import atomic_folder, recover, whole_file, write_text
from alphaedit.core.marks import MANIFEST, read_manifest
from alphaedit.stats.cache import MomentCache


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: SIGKILL does not lose what is not on it yet."""

    def fsync(handle: int) -> None:
        return None

    monkeypatch.setattr(os, "fsync", fsync)


MINE = {"thesis.tex": b"years of work", "code/train.py": b"print()", "config.json.bak": b"{}"}


def fill(folder: Path, held: dict[str, bytes]) -> Path:
    for name, data in held.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write(folder: Path, held: dict[str, bytes], **options: object) -> None:
    with atomic_folder(folder, **options) as part:  # type: ignore[arg-type]
        fill(part, held)


def test_other_files_stay(tmp_path: Path) -> None:
    fill(tmp_path / "work", MINE)
    write(tmp_path / "work", {"config.json": b"1", "code/edit.py": b"2"}, last="config.json")
    new = {"config.json": b"1", "code/edit.py": b"2"}
    assert snapshot(tmp_path / "work") == {**MINE, **new}
    write(tmp_path / "work", {"config.json": b"3"}, last="config.json")
    assert snapshot(tmp_path / "work") == {**MINE, **new, "config.json": b"3"}
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "work", MINE)
    monkeypatch.chdir(tmp_path / "work")
    write(Path("."), {"new": b"1"})
    write(Path(".."), {"new": b"2"})
    assert snapshot(tmp_path / "work") == {**MINE, "new": b"1"}
    assert (tmp_path / "new").read_bytes() == b"2"


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("kept")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("notes.md", "notes.md/below", "nowhere", "n" * 300, "nul\0"):
        with pytest.raises(ResourceError, match="Cannot write"):
            write(tmp_path / name, {"new": b""})
    assert {p.name for p in tmp_path.iterdir()} == {"notes.md", "nowhere"}
    assert (tmp_path / "notes.md").read_text() == "kept"


@pytest.mark.parametrize(
    "held", [{"config.json/mine": b"1"}, {"weights/mine": b"1"}, {"parts": b"a file"}]
)
def test_a_name_that_a_folder_has(held: dict[str, bytes], tmp_path: Path) -> None:
    fill(tmp_path / "work", held)
    with pytest.raises(ResourceError, match=r"director|below it"):
        write(tmp_path / "work", {"config.json": b"", "weights": b"", "parts/1": b""})
    assert snapshot(tmp_path / "work") == held
    assert len(list((tmp_path / "work").iterdir())) == 1


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    fill(tmp_path / "work", MINE)
    (tmp_path / "link").symlink_to(tmp_path / "work")
    (tmp_path / "work" / "new").symlink_to(tmp_path / "work" / "thesis.tex")
    write(tmp_path / "link", {"new": b"1"})
    assert (tmp_path / "link").is_symlink()
    assert snapshot(tmp_path / "work") == {**MINE, "new": b"1"}
    assert not (tmp_path / "work" / "new").is_symlink()
    assert {p.name for p in tmp_path.iterdir()} == {"work", "link"}


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    for target in (tmp_path / "a" / "b" / "new", fill(tmp_path / "work", MINE)):
        with pytest.raises(ZeroDivisionError), atomic_folder(target) as part:
            _ = fill(part, {"half": b""}) and 1 / 0
    assert snapshot(tmp_path / "work") == MINE
    assert [p.name for p in tmp_path.iterdir()] == ["work"]
    with pytest.raises(ResourceError), whole_file(tmp_path / "a" / "b" / "new") as new:
        _ = new.write_text("half") and full()
    assert [p.name for p in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(mask: int, tmp_path: Path) -> None:  # finding 21
    before = os.umask(mask)
    try:
        edit, _ = make(1)
        for folder in (tmp_path / "new", fill(tmp_path / "work", MINE)):
            edit.save(folder)
        write_text("x", tmp_path / "page.html")
        MomentCache(tmp_path / "cache").save({"kind": "moment"}, {"matrix": torch.eye(3)})
    finally:
        os.umask(before)
    made = [p for f in ("new", "work") for p in (tmp_path / f).glob("*.*") if p.name not in MINE]
    made += [tmp_path / "page.html", *(tmp_path / "cache").iterdir()]
    assert {p.suffix for p in made} == {".json", ".safetensors", ".html"}
    assert {p.stat().st_mode & 0o777 for p in made} == {0o666 & ~mask}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~mask


OLD = {"config.json": b"old", "weights": b"old" * 9, "shards/1": b"old", "shards/2": b"old"}
NEW = {"config.json": b"new", "weights": b"new" * 9, "shards/1": b"new", "more": b"new"}


def save(folder: Path, held: dict[str, bytes] = NEW) -> None:
    write(folder, held, last="config.json", kind="test")


def ours(folder: Path) -> dict[str, bytes]:
    """What is in a folder but what is the user's, and what is hidden."""
    return {
        name: data
        for name, data in snapshot(folder).items()
        if name not in (*MINE, MANIFEST) and not name.startswith(".")
    }


@pytest.mark.parametrize("place", ["new", "mine", "ours"])
def test_killed_at_every_change(place: str, tmp_path: Path) -> None:
    target = tmp_path / "work"
    seen = set()
    for point in range(1, 200):
        held = {"new": {}, "mine": MINE, "ours": {**MINE}}[place]
        fill(target, held)
        if place == "ours":
            save(target, OLD)
        died = killed(lambda: save(target), point)
        after = snapshot(target) if target.exists() else {}
        assert {name: after.get(name) for name in held} == held
        if "config.json" in after:
            assert ours(target) in (OLD, NEW), point
            seen.add(ours(target) == NEW)
        else:
            seen.add(None)
        if not died:
            break
        save(target)  # the next write brings it to an end, and leaves no litter
        assert ours(target) == NEW
        assert {k: v for k, v in snapshot(target).items() if k in MINE} == held
        assert not [p for p in (*tmp_path.iterdir(), *target.iterdir()) if p.name[0] == "."]
        files.disk.remove(target)
    assert point > 20
    assert seen == {"new": {None, True}, "mine": {None, True}, "ours": {None, False, True}}[place]


def test_what_a_killed_writer_left_is_finished_not_undone(tmp_path: Path) -> None:
    target = tmp_path / "work"
    finished = 0
    for point in range(1, 200):
        fill(target, MINE)
        save(target, OLD)
        if not killed(lambda: save(target), point):
            break
        waiting = (target / ".alphaedit.new" / "plan.json").is_file()
        recover(target)
        assert ours(target) in (OLD, NEW)
        finished += waiting and ours(target) == NEW
        assert waiting <= (ours(target) == NEW)
        assert {k: v for k, v in snapshot(target).items() if k in MINE} == MINE
        assert not [p for p in target.iterdir() if p.name[0] == "."]
        files.disk.remove(target)
    assert finished > 5


def test_what_was_put_there_after_a_kill_is_not_replaced(tmp_path: Path) -> None:
    target = fill(tmp_path / "work", MINE)
    save(target, OLD)
    for point in range(1, 200):
        assert killed(lambda: save(target), point)
        if not (target / "config.json").exists():
            break
    (target / "config.json").write_text("by hand")
    with pytest.raises(ResourceError, match="was put there after"):
        save(target)
    assert (target / "config.json").read_text() == "by hand"
    (target / "config.json").unlink()
    save(target)
    assert ours(target) == NEW


@pytest.mark.parametrize("place", ["new", "ours"])
def test_a_full_disk_at_every_write(place: str, tmp_path: Path) -> None:
    target = tmp_path / "work"
    failures = 0
    for point in range(1, 200):
        if place == "ours":
            save(fill(target, MINE), OLD)
        before = snapshot(tmp_path)
        with acting(point, full) as count:
            try:
                save(target)
                assert ours(target) == NEW
            except ResourceError as error:
                failures += "No space left" in str(error)
                assert snapshot(tmp_path) == before
        assert not [p for p in tmp_path.rglob(".*")], point
        files.disk.remove(target)
        if count.left > 0:
            break
    assert failures > {"new": 10, "ours": 20}[place]


def test_a_disk_that_stays_full_while_moving_back(tmp_path: Path) -> None:
    target = fill(tmp_path / "work", MINE)
    save(target, OLD)
    real, calls = os.replace, 0

    def failing(source: Path, to: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            full()
        real(source, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(ResourceError, match="half replaced"):
            save(target)
    assert not (target / "config.json").exists()
    write(target, {"another": b"1"})
    assert ours(target) == {**NEW, "another": b"1"}


def together(count: int, work: Callable[[int], None]) -> list[BaseException]:
    failed: list[BaseException] = []
    start = threading.Barrier(count)

    def one(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


@pytest.mark.parametrize("place", ["new", "ours"])
def test_writers_at_once(place: str, tmp_path: Path) -> None:
    for turn in range(8):
        target = tmp_path / f"{place}-{turn}"
        if place == "ours":
            save(fill(target, MINE), OLD)
        sets = [
            {"config.json": b"%d" % n, "weights": b"%d" % n * 99, f"shards/{n}": b"%d" % n}
            for n in range(4)
        ]
        failed = together(4, lambda number: save(target, sets[number]))  # noqa: B023
        assert failed == []
        assert ours(target) in sets
        held = read_manifest(target)
        assert held is not None
        assert held.changed(target) == []
        assert not [p for p in tmp_path.rglob(".*")]


def test_a_writer_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = fill(tmp_path / "work", MINE)
    monkeypatch.setattr(replace, "WAIT", 0.1)
    with replace._locked(target), pytest.raises(ResourceError, match="another process"):
        save(target)
    assert snapshot(target) == MINE


def test_the_manifest(tmp_path: Path) -> None:
    target = fill(tmp_path / "work", MINE)
    save(target, OLD)
    held = read_manifest(target)
    assert held is not None
    assert held.kind == "test"
    assert set(held.files) == set(OLD)
    (target / "weights").write_bytes(b"mine now")
    assert held.changed(target) == ["weights"]
    save(target, {"config.json": b"1"})
    # What we wrote and is no longer part of it has gone; what was changed since has not.
    assert ours(target) == {"config.json": b"1", "weights": b"mine now"}
    with pytest.raises(ConfigError, match="holds a test, and a other"):
        write(target, {"x": b""}, kind="other")


def test_only_what_is_ours(tmp_path: Path) -> None:
    target = fill(tmp_path / "work", {**MINE, "weights": b"mine"})
    with pytest.raises(ConfigError, match=r"weights was not written by alphaedit"):
        write(target, NEW, kind="test", only_ours=True)
    assert snapshot(target) == {**MINE, "weights": b"mine"}
    (target / "weights").unlink()
    write(target, NEW, kind="test", only_ours=True)
    write(target, OLD, kind="test", only_ours=True)
    (target / "weights").write_bytes(b"changed")
    before = snapshot(target)
    with pytest.raises(ConfigError, match=r"weights was changed"):
        write(target, NEW, kind="test", only_ours=True)
    assert snapshot(target) == before


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"alphaedit": "1", "kind": "test", "files": {"../mine": "HASH"}}',
        '{"alphaedit": "1", "kind": "test", "files": {"/PLACE/mine": "HASH"}}',
        '{"alphaedit": "1", "kind": "test", "files": {"link/mine": "HASH"}}',
        '{"alphaedit": "1", "kind": "test", "files": 1}',
        '{"kind": "test", "files": {}}',
    ],
)
def test_manifests_of_others(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    found = files.replace.digest(tmp_path / "mine")
    target = fill(tmp_path / "work", MINE)
    (target / "link").symlink_to(tmp_path)
    text = text.replace("HASH", found).replace("/PLACE", str(tmp_path))
    (target / MANIFEST).write_text(text)
    save(target)
    assert (tmp_path / "mine").read_bytes() == b"mine"
    held = read_manifest(target)
    assert held is not None
    assert set(held.files) == set(NEW)


def test_rivals(tmp_path: Path) -> None:
    target = fill(tmp_path / "work", {**MINE, "weights.bin": b"mine"})

    def put(held: dict[str, bytes]) -> None:
        write(target, held, kind="test", rivals=lambda name: name.startswith("weights"))

    with pytest.raises(ResourceError, match=r"holds weights\.bin, which would be loaded"):
        put({"weights.new": b""})
    assert snapshot(target) == {**MINE, "weights.bin": b"mine"}
    put({"weights.bin": b"ours"})
    put({"weights.new": b"ours"})
    assert ours(target) == {"weights.new": b"ours"}


def edits() -> tuple[Edit, Edit]:
    return make(1)[0], make(2)[0]


def test_an_edit_saved_into_a_folder(tmp_path: Path) -> None:  # finding 1
    one, two = edits()
    target = fill(tmp_path / "work", MINE)
    one.save(target)
    two.save(target)
    assert Edit.load(target).id == two.id
    assert {name: data for name, data in snapshot(target).items() if name in MINE} == MINE
    (tmp_path / "notes.md").write_text("kept")
    with pytest.raises(ResourceError, match="it is a file"):
        one.save(tmp_path / "notes.md")
    assert (tmp_path / "notes.md").read_text() == "kept"
    assert {p.name for p in tmp_path.iterdir()} == {"work", "notes.md"}


def test_an_edit_does_not_take_over_the_state_of_another(tmp_path: Path) -> None:
    one, learned = make(1)
    dataclasses.replace(one, learned=learned).save(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(ResourceError, match=r"holds state\.json"):
        make(2)[0].save(tmp_path)
    assert snapshot(tmp_path) == before
    two, learned = make(2)
    dataclasses.replace(two, learned=learned).save(tmp_path)
    assert Edit.load(tmp_path).id == two.id


def test_an_edit_killed_at_every_change(tmp_path: Path) -> None:
    one, two = edits()
    target = tmp_path / "work"
    found = set()
    for point in range(1, 200):
        one.save(fill(target, MINE))
        died = killed(lambda: two.save(target), point)
        after = snapshot(target)
        assert {name: after.get(name) for name in MINE} == MINE
        try:
            found.add(Edit.load(target).id)
        except EditFileError as error:
            found.add("refused" if "it has no edit.json" in str(error) else str(error))
        if not died:
            break
        two.save(target)
        assert Edit.load(target).id == two.id
        assert not [p for p in tmp_path.rglob(".*")]
        files.disk.remove(target)
    assert found == {one.id, two.id, "refused"}
    assert point > 20


def test_an_edit_on_a_full_disk(tmp_path: Path) -> None:
    one, two = edits()
    target = fill(tmp_path / "work", MINE)
    failures = 0
    for point in range(1, 200):
        one.save(target)
        before = snapshot(tmp_path)
        with acting(point, full) as count:
            try:
                two.save(target)
                assert Edit.load(target).id == two.id
            except ResourceError:
                failures += 1
                assert snapshot(tmp_path) == before
        assert not [p for p in tmp_path.rglob(".*")]
        if count.left > 0:
            break
    assert failures > 10
