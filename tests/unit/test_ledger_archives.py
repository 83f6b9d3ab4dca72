"""Archives of others: how large they may be, what is in them, and what is said of broken ones."""

import io
import lzma
import os
import random
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from tests.forge import Forged, as_json, good
from tests.fuzz import in_time, run_cli
from tests.ledgers import make

from alphaedit.core.errors import LedgerError, ResourceError
from alphaedit.ledger import archive, hub
from alphaedit.ledger.check import verify
from alphaedit.ledger.ledger import Ledger


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good(tmp_path_factory.mktemp("origin") / "ledger").path


@pytest.fixture
def ledger(origin: Path, tmp_path: Path) -> Ledger:
    return Ledger(shutil.copytree(origin, tmp_path / "ledger"))


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert list(place.iterdir()) == []


def told(path: Path, place: Path) -> str:
    """What is said of an archive that is refused, by all that read archives."""
    with in_time(10), pytest.raises(LedgerError) as error:
        archive.unpack(path, place / "here")
    assert not list(place.glob("*here*"))
    with in_time(10), pytest.raises(LedgerError), archive.opened(path):
        pass
    for text in (str(error.value), *run_cli(["unpack", str(path), str(place / "here")])[1:]):
        assert tempfile.gettempdir() not in text
        assert ".part-" not in text
    assert str(path) in error.value.message
    assert error.value.remedy
    return str(error.value)


def written(path: Path, name: str, size: int, **fields: object) -> Path:
    """An archive with one member, of zeros."""
    with tarfile.open(path, "w:gz", compresslevel=9) as tar:
        member = tarfile.TarInfo(name)
        member.size = size
        for field, value in fields.items():
            setattr(member, field, value)
        tar.addfile(member, io.BytesIO(bytes(size)))
    return path


def test_archives_that_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # finding 14
    path = written(tmp_path / "bomb.tgz", "journal.jsonl", 3_000_000)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(archive, "SMALL", 100_000)
    text = told(path, tmp_path)
    assert "more than 0 MB when unpacked" in text
    assert "--max-size GB" in text
    monkeypatch.setattr(archive, "SMALL", 64_000_000)
    assert "has no beginning" in told(path, tmp_path)
    monkeypatch.setattr(archive, "MAX_SIZE", 1_000_000)
    assert "more than 1 MB" in told(path, tmp_path)
    for size, said in (("0.001", "more than 1 MB"), ("0.01", "has no beginning")):
        code, _, err = run_cli(["unpack", str(path), str(tmp_path / "here"), "--max-size", size])
        assert code == 1
        assert said in err


def test_a_ledger_that_compresses_well(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # finding 14
    """The limit of its own is for small files only, and gives way to what the user says."""
    path = tmp_path / "x.tgz"
    archive.pack(ledger, path)
    monkeypatch.setattr(archive, "MAX_RATIO", 1)
    assert archive.unpack(path, tmp_path / "a").head.id == ledger.head.id
    monkeypatch.setattr(archive, "SMALL", 1)
    with pytest.raises(LedgerError, match="more than"):
        archive.unpack(path, tmp_path / "b")
    assert archive.unpack(path, tmp_path / "b", max_size=10**6).head.id == ledger.head.id


@pytest.mark.parametrize("size", [10**9, 2**40, 8**11 - 1, 2**62, 2**80])
def test_sizes_that_are_announced(size: int, tmp_path: Path) -> None:  # finding 14
    member = tarfile.TarInfo("journal.jsonl")
    member.size = size
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2000))
    began = time.monotonic()
    assert "when unpacked, the limit" in told(tmp_path / "x.tar", tmp_path)
    assert time.monotonic() - began < 5


def test_headers_of_any_size(tmp_path: Path) -> None:  # finding 14
    member = tarfile.TarInfo("journal.jsonl")
    member.size, member.type = 10**7, tarfile.XHDTYPE
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        tar.addfile(member, io.BytesIO(bytes(10**7)))
    assert "header of 10000000 bytes" in told(tmp_path / "x.tgz", tmp_path)


def test_many_files(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 8)
    archive.pack(ledger, tmp_path / "x.tar")
    assert "too many files" in told(tmp_path / "x.tar", tmp_path)


@pytest.mark.parametrize("name", ["l.tar", "l.tgz"])
def test_damaged_archives(name: str, ledger: Ledger, tmp_path: Path) -> None:  # finding 14
    """Any byte changed, any end cut off: it is told, or what comes out is what was packed."""
    archive.pack(ledger, tmp_path / name)
    raw = (tmp_path / name).read_bytes()
    path = tmp_path / f"damaged-{name}"
    rng = random.Random(1)
    broken = 0
    for number in range(60):
        at = rng.randrange(len(raw))
        changed = bytes([raw[at] ^ (1 << rng.randrange(8))])
        path.write_bytes(raw[:at] if number % 3 == 0 else raw[:at] + changed + raw[at + 1 :])
        try:
            found = archive.unpack(path, tmp_path / "here")
        except LedgerError as error:
            broken += str(path) in error.message
        else:
            assert found.head.id == ledger.head.id
            assert verify(found).problems == []
            shutil.rmtree(found.path)
    assert broken > 20


@pytest.mark.parametrize("what", ["zero", "fifo", "folder", "nothing"])
def test_archives_that_are_no_files(what: str, tmp_path: Path) -> None:  # finding 14
    path = tmp_path / "x.tgz"
    if what == "zero":
        path.symlink_to("/dev/zero")
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    words = {"zero": "a device", "fifo": "a pipe", "folder": "a directory", "nothing": "not exist"}
    with in_time(5), pytest.raises(LedgerError, match=words[what]):
        archive.unpack(path, tmp_path / "here")
    with in_time(5):
        assert run_cli(["unpack", str(path), str(tmp_path / "here")])[0] == 1
        assert run_cli(["merge", str(path), str(path)])[0] == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.GNUTYPE_SPARSE},
        {"type": tarfile.CHRTYPE},
        {"type": tarfile.CONTTYPE},
        {"type": tarfile.DIRTYPE},
        {"type": b"Z"},
        {"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}},
        {"pax_headers": {"path": "../evil"}},
    ],
)
def test_members_that_are_no_files(fields: dict, tmp_path: Path) -> None:  # finding 14
    path = written(tmp_path / "x.tgz", "journal.jsonl", 0, **fields)
    assert "no part of a ledger" in told(path, tmp_path)


def test_other_archives(ledger: Ledger, tmp_path: Path) -> None:
    archive.pack(ledger, tmp_path / "x.tar")
    raw = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar.xz").write_bytes(lzma.compress(raw))
    assert "compressed by xz" in told(tmp_path / "x.tar.xz", tmp_path)
    (tmp_path / "empty.tar").write_bytes(b"")
    assert "no journal.jsonl" in told(tmp_path / "empty.tar", tmp_path)
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        for _ in range(2):
            tar.add(ledger.path / "journal.jsonl", "journal.jsonl")
    assert "'journal.jsonl' twice" in told(tmp_path / "twice.tar", tmp_path)
    forged = Forged(ledger.path)
    forged.entries[3]["more"] = 7
    archive_of(forged.write(tmp_path / "forged"), tmp_path / "forged.tgz")
    assert "forged.tgz/journal.jsonl, line 4: field 'more'" in told(
        tmp_path / "forged.tgz", tmp_path
    )


def archive_of(folder: Path, path: Path) -> None:
    """As versions before this one packed: owners, times with fractions in headers of their own."""
    with tarfile.open(path, "w:gz") as tar:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            if file.name != "lock":
                tar.add(file, file.relative_to(folder).as_posix(), recursive=False)


def test_archives_of_older_versions(ledger: Ledger, tmp_path: Path) -> None:
    archive_of(ledger.path, tmp_path / "x.tgz")
    with tarfile.open(tmp_path / "x.tgz") as tar:
        assert all("mtime" in member.pax_headers for member in tar)
    assert archive.unpack(tmp_path / "x.tgz", tmp_path / "here").head.id == ledger.head.id


def test_large_members(tmp_path: Path) -> None:
    """Sizes past 8 GiB, which stand in a header of their own, are understood."""
    member = tarfile.TarInfo("journal.jsonl")
    member.size = 10**10
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.PAX_FORMAT) + bytes(2000))
    with pytest.raises(LedgerError, match="in the middle of a file"):
        archive.unpack(tmp_path / "x.tar", tmp_path / "here", max_size=10**11)


def test_only_what_the_journal_speaks_of_is_packed(ledger: Ledger, tmp_path: Path) -> None:
    orphan, learned = make(70)
    ledger.store.write(orphan, learned)
    with (ledger.path / "journal.jsonl").open("ab") as file:
        file.write(b'{"hash":"torn')
    count = archive.pack(ledger, tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert len(tar.getnames()) == count == 1 + 2 * 4
        assert not any(orphan.id in name for name in tar.getnames())
        assert all(m.uname == m.gname == "" and m.uid == 0 for m in tar)
    assert archive.receive(ledger.path, tmp_path / "copy") == 8
    assert not Ledger(tmp_path / "copy").store.has(orphan.id)
    edit = ledger.head.edits[0]
    (ledger.store.folder(edit) / "state.json").unlink()
    with pytest.raises(LedgerError, match=r"state.json is missing"):
        archive.pack(ledger, tmp_path / "y.tar")
    assert not (tmp_path / "y.tar").exists()


def test_nothing_is_unpacked_over_what_is_there(ledger: Ledger, tmp_path: Path) -> None:
    archive.pack(ledger, tmp_path / "x.tar")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    for call in (
        lambda: archive.unpack(tmp_path / "x.tar", mine),
        lambda: archive.unpack(tmp_path / "x.tar", ledger.path),
        lambda: archive.receive(ledger.path, mine),
    ):
        with pytest.raises(LedgerError, match="not empty"):
            call()
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]


def test_lines_end_in_newlines_only(ledger: Ledger, tmp_path: Path) -> None:
    """White space of JSON is no end of a line, though Python takes it for one."""
    copy = Path(shutil.copytree(ledger.path, tmp_path / "copy"))
    last = ledger.commit("revert", drop=ledger.head.edits[:1])
    raw = (ledger.path / "journal.jsonl").read_bytes().split(b"\n")
    previous = ledger.history.entries[-2].hash
    body = as_json({k: v for k, v in last.to_json().items() if k != "hash"})
    body = body.replace(b'{"about"', b'{\r"about"')
    digest = sha256(previous.encode() + body).hexdigest().encode()
    raw[-2] = b'{"hash":"%s","entry":%s}' % (digest, body)
    (ledger.path / "journal.jsonl").write_bytes(b"\n".join(raw))
    theirs = Ledger(ledger.path)
    assert len(theirs.history.entries) == 9
    assert archive.receive(ledger.path, copy) == 1
    assert Ledger(copy).head.id == theirs.head.id
    assert verify(Ledger(copy)).problems == []


def test_a_pulled_ledger_is_called_by_its_name(ledger: Ledger, tmp_path: Path) -> None:
    edit = ledger.head.edits[0]
    (ledger.store.folder(edit) / "edit.json").write_text("{}")

    def download(repo: str, *, local_dir: str, **more: object) -> None:
        shutil.copytree(ledger.path, local_dir, dirs_exist_ok=True)

    with pytest.raises(LedgerError, match=r"me/edits/edits/.*edit.json is not what") as error:
        hub.pull("me/edits", tmp_path / "new", download=download)
    assert tempfile.gettempdir() not in str(error.value)


def test_no_room_to_unpack(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.pack(ledger, tmp_path / "x.tar")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alphaedit.core.disk.to_disk", full)
    with pytest.raises(ResourceError, match=r"x.tar cannot be unpacked in .*No space left"):
        with archive.opened(tmp_path / "x.tar"):
            pass
