"""What a ledger refuses, how edits of two are merged, squashed, signed, packed and pushed."""

import io
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.ledgers import BASE, make

from alphaedit.cli.app import run
from alphaedit.cli.outputs import check_new
from alphaedit.core.change import MemoryChange
from alphaedit.core.errors import (
    ConfigError,
    ConflictError,
    EditFileError,
    FingerprintError,
    LedgerError,
    ResourceError,
    UnknownNameError,
)
from alphaedit.core.fact import canonical
from alphaedit.core.patch import Patch
from alphaedit.ledger import archive, hub, journal, lock
from alphaedit.ledger import ledger as module
from alphaedit.ledger.check import sweep, verify
from alphaedit.ledger.facts import difference, in_force, merge
from alphaedit.ledger.ledger import Ledger
from alphaedit.ledger.squash import squash
from alphaedit.methods.state import SequentialState


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Three edits in force."""
    made = Ledger.create(tmp_path / "ledger", BASE, model="some/model", why="begin")
    for number in range(3):
        made.commit("edit", add=[make(number)], why=f"edit {number}")
    return made


def ids(ledger: Ledger) -> list[str]:
    return ledger.head.edits


def said(ledger: Ledger) -> list:
    return [(edit.id, edit.facts) for edit, _ in ledger.edits()]


def test_what_it_holds(ledger: Ledger) -> None:
    again = Ledger(ledger.path)
    assert again.base == BASE
    assert again.model == "some/model"
    assert [e.op for e in again.history.entries] == ["init", "edit", "edit", "edit"]
    assert [e.why for e in again.history.entries] == ["begin", "edit 0", "edit 1", "edit 2"]
    assert all("@" in e.who and e.when.endswith("+00:00") for e in again.history.entries)
    edit, learned = again.read(ids(again)[1])
    wanted, kept = make(1)
    assert edit.facts == wanted.facts
    assert torch.equal(
        edit.patch.weights["a.weight"].matrix(), wanted.patch.weights["a.weight"].matrix()
    )
    assert torch.equal(learned.keys[2], kept.keys[2])
    assert learned.contexts == ("a text",)
    state = SequentialState.of(learned for _, learned in again.edits())
    assert state.edits == 3
    assert state.past_keys[2].shape == (3, 3)
    assert float(state.memory["sum"]) == 2


def test_equal_lists_of_edits_are_one_version(ledger: Ledger) -> None:
    head, (a, b, c) = ledger.head.id, ids(ledger)
    ledger.commit("revert", drop=[b, c])
    ledger.commit("apply", add=[b])
    ledger.commit("apply", add=[c])
    assert ledger.head.id == head
    ledger.commit("revert", drop=[a])
    assert ids(ledger) == [b, c]
    ledger.commit("checkout", start=3)
    assert ledger.head.id == head


@pytest.mark.parametrize(
    ("name", "number"), [("@2", 2), ("2", 2), ("base", 0), ("head", 3), ("HEAD~1", 2), ("ID", 2)]
)
def test_names_of_entries(name: str, number: int, ledger: Ledger) -> None:
    name = ids(ledger)[1][:6] if name == "ID" else name
    assert ledger.history.entry(name) == number


@pytest.mark.parametrize("name", ["@4", "99", "head~9", "-1", "abcd", "zz", "head~x", ""])
def test_no_such_entry(name: str, ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match=r"There is no"):
        ledger.history.entry(name)


def test_names_of_edits(ledger: Ledger) -> None:
    first = ids(ledger)[0]
    assert ledger.history.edit(first[:5]) == first
    assert ledger.history.edit("last") == ids(ledger)[-1]
    assert ledger.history.edit("@1") == first
    with pytest.raises(LedgerError, match="There is no edit"):
        ledger.history.edit(first[:3])
    with pytest.raises(LedgerError, match="brought 0 edits"):
        ledger.history.edit("@0")


def test_what_cannot_be_done_changes_nothing(ledger: Ledger) -> None:
    before = (ledger.path / "journal.jsonl").read_bytes()
    held = ids(ledger)
    for change in (
        {"add": [held[0]]},
        {"drop": ["0" * 16]},
        {"start": 17},
        {"add": ["0" * 16]},
        {"add": [make(9), make(9)]},
        {"add": [make(9)], "expect": "0" * 16},
    ):
        with pytest.raises(LedgerError):
            ledger.commit("edit", **change)
    assert (ledger.path / "journal.jsonl").read_bytes() == before
    assert ids(Ledger(ledger.path)) == held


def test_somebody_else_was_quicker(ledger: Ledger) -> None:
    seen = ledger.head.id
    Ledger(ledger.path).commit("edit", add=[make(7)])
    with pytest.raises(LedgerError, match="changed meanwhile"):
        ledger.commit("edit", add=[make(8)], expect=seen)
    assert len(ids(ledger)) == 4


def test_a_ledger_is_begun_once(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="already"):
        Ledger.create(ledger.path, BASE)
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger(tmp_path / "nowhere")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "journal.jsonl").write_bytes(b'{"hash":"12')
    with pytest.raises(LedgerError, match="no beginning"):
        Ledger(tmp_path / "torn")
    assert Ledger.create(tmp_path / "torn", BASE).head.size == 0


def write_some(path: Path, first: int, count: int) -> None:
    ledger = Ledger(path)
    for number in range(first, first + count):
        ledger.commit("edit", add=[make(number)])


def test_two_writers(ledger: Ledger) -> None:
    spawn = multiprocessing.get_context("fork")
    writers = [
        spawn.Process(target=write_some, args=(ledger.path, first, 10)) for first in (100, 200)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert len(ids(ledger)) == 23
    assert verify(ledger).problems == []


def test_a_writer_that_holds_the_lock(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT", 0.1)
    with ledger.locked(), pytest.raises(ResourceError, match="another process"):
        Ledger(ledger.path).commit("edit", add=[make(9)])
    ledger.commit("edit", add=[make(9)])


@pytest.mark.parametrize("what", ["journal", "edit"])
def test_full_disk(what: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (ledger.path / "journal.jsonl").read_bytes()

    class Full:
        def __init__(self, *args) -> None:
            self.file = open(*args)

        def __enter__(self):
            return self

        def __exit__(self, *trace) -> None:
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            self.file.write(data[:20])
            raise OSError(28, "No space left on device")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    if what == "journal":
        monkeypatch.setattr(journal, "open", Full, raising=False)
    else:
        monkeypatch.setattr("alphaedit.core.edit.save_file", full)
    with pytest.raises(ResourceError, match="No space left"):
        ledger.commit("edit", add=[make(9)])
    monkeypatch.undo()
    assert (ledger.path / "journal.jsonl").read_bytes() == before
    ledger.commit("edit", add=[make(9)])
    assert verify(ledger).problems == []


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_read_only(ledger: Ledger) -> None:
    for path in (ledger.path, ledger.path / "journal.jsonl"):
        path.chmod(0o555)
    assert Ledger(ledger.path).head.size == 3
    with pytest.raises(ResourceError):
        ledger.commit("edit", add=[make(9)])


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="Cannot write into"):
        Ledger.create(tmp_path / "file" / "ledger", BASE)


def test_a_beginning_that_failed_is_no_obstacle(tmp_path: Path) -> None:
    place = tmp_path / "new"
    with pytest.raises(ConfigError, match="no key"):
        Ledger.create(place, BASE, signer=tmp_path / "nokey")
    (place / "journal.jsonl").write_bytes(b'{"hash":"1')  # killed in the middle of its first line
    check_new(place)
    assert Ledger.create(place, BASE).head.size == 0
    with pytest.raises(ConfigError, match="already"):
        check_new(place)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ConfigError, match="not empty"):
        check_new(tmp_path)


def change_bytes(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"edit 1", b"edit 9"), (b'"op":"edit"', b'"op":"exit"'), (b'"hash":"', b'"hash":"0')],
)
def test_a_journal_that_was_changed(old: bytes, new: bytes, ledger: Ledger) -> None:
    change_bytes(ledger.path / "journal.jsonl", old, new)
    with pytest.raises(LedgerError, match=r"line [123].*changed or is damaged"):
        Ledger(ledger.path)


def test_a_line_taken_out(ledger: Ledger) -> None:
    path = ledger.path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    with pytest.raises(LedgerError, match="line 3"):
        Ledger(ledger.path)


def test_a_journal_that_contradicts_itself(ledger: Ledger) -> None:
    """Even where all hashes are right: ids are no paths, and versions follow from edits."""
    path = ledger.path / "journal.jsonl"
    last = ledger.history.entries[-1]
    values = {k: v for k, v in last.to_json().items() if k != "hash"}
    for more in ({"add": ["../../../etc"]}, {"version": "0" * 16}):
        line, _ = journal.seal({**values, "number": 4, "add": [], **more}, last.hash)
        copy = path.with_name("copy")
        shutil.copy(path, copy)
        with path.open("a") as file:
            file.write(line)
        with pytest.raises(LedgerError, match=r"journal.jsonl, line 5: (field 'add.0'|Entry 4)"):
            Ledger(ledger.path)
        shutil.move(copy, path)


@pytest.mark.parametrize(
    "name", ["edit.json", "patch.safetensors", "state.json", "state.safetensors"]
)
@pytest.mark.parametrize("how", ["changed", "truncated", "missing"])
def test_an_edit_that_was_tampered_with(name: str, how: str, ledger: Ledger) -> None:
    edit = ids(ledger)[1]
    path = ledger.path / "edits" / edit / name
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if how == "truncated" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(LedgerError, match=name):
        ledger.read(edit)
    found = verify(ledger)
    assert len(found.problems) == 1
    assert name in found.problems[0]
    assert found.edits == 2


def test_sweeping(ledger: Ledger) -> None:
    a, b, c = ids(ledger)
    orphan, learned = make(50)
    ledger.store.write(orphan, learned)
    (ledger.store.path / f".{a}.part-999999999-x").mkdir()
    ledger.commit("revert", drop=[b])
    told = sweep(ledger, dry_run=True)
    assert told.orphans == [orphan.id]
    assert ledger.store.has(orphan.id)
    assert sweep(ledger).orphans == [orphan.id]
    assert ledger.store.litter() == []
    ledger.commit("apply", add=[b])
    ledger.commit("revert", drop=[b])
    assert sweep(ledger, prune=True).pruned == [b]
    assert sorted(ledger.store.ids()) == sorted([a, c])
    with pytest.raises(LedgerError, match="removed by `gc`"):
        ledger.commit("apply", add=[b])
    with pytest.raises(LedgerError, match="removed by `gc`"):
        ledger.edits(ledger.version("@3"))
    ledger.commit("edit", add=[make(1)])  # the same edit made again
    assert ids(ledger) == [a, c, b]
    assert verify(ledger).problems == []


def test_squashing(ledger: Ledger) -> None:
    kept = ledger.edits()
    whole = sum(edit.patch.weights["a.weight"].matrix() for edit, _ in kept)
    one, learned, report = squash(kept)
    torch.testing.assert_close(one.patch.weights["a.weight"].matrix(), whole)
    assert [row.given for row in report] == [3]
    assert len(one.facts) == len(one.before) == len(one.after) == 3
    assert one.patch.metadata["squashed"] == ids(ledger)
    assert learned.keys[2].shape == (3, 3)
    assert learned.edits == 3
    short, _, (row,) = squash(kept, tolerance=0.9)
    error = (short.patch.weights["a.weight"].matrix() - whole).norm() / whole.norm()
    assert row.rank < 3
    assert 0 < row.error <= 0.9
    assert float(error) == pytest.approx(row.error, rel=1e-5)


def test_squashing_keeps_the_fact_that_holds() -> None:
    kept = [
        make(1, prompt="Who is {}?", target="A"),
        make(2),
        make(3, prompt="Who is {}?", target="B"),
    ]
    one, _, _ = squash(kept)
    assert [fact.target for fact in one.facts] == ["B", "new"]
    with pytest.raises(LedgerError, match="Fewer than two"):
        squash(kept[:1])
    edit, learned = kept[0]
    prompted = type(edit)(
        **{**vars(edit), "patch": Patch(changes=(MemoryChange("ike", torch.tensor([0])),))}
    )
    with pytest.raises(LedgerError, match="only change weights"):
        squash([(prompted, learned), kept[1]])


def test_differences(ledger: Ledger) -> None:
    a, b = said(ledger), [*said(ledger)[1:], ("f" * 16, make(1, target="other")[0].facts)]
    changes = {(c.before, c.after) for c in difference(a, b)}
    assert changes == {("new", None), ("new", "other")}
    assert difference(a, a) == []


@pytest.mark.parametrize("seed", range(20))
def test_differences_are_those_of_all_facts_in_force(seed: int) -> None:
    drawn = random.Random(seed)
    edits = [
        (f"{number:016x}", (make(drawn.randrange(6), target=drawn.choice("AB"))[0].facts))
        for number in range(12)
    ]
    a, b = (edits[:begun] + drawn.sample(edits, 4) for begun in (drawn.randrange(8), 5))
    before, after = in_force(a), in_force(b)
    plain = {
        (
            prompt,
            before[prompt].fact.target if prompt in before else None,
            after[prompt].fact.target if prompt in after else None,
        )
        for prompt in {*before, *after}
    }
    assert {(canonical(c.prompt), c.before, c.after) for c in difference(a, b)} == {
        row for row in plain if row[1] != row[2]
    }


def test_merging(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger.create(tmp_path / "other", BASE)
    other.commit("edit", add=[make(1), make(30)])
    plan = merge(said(ledger), said(other))
    assert plan.add == (make(30)[0].id,)
    assert plan.drop == plan.skip == plan.lost == ()
    ledger.commit("merge", add=plan.add, source=other)
    shutil.rmtree(other.path)
    assert [edit.id for edit, _ in ledger.edits()][-1] == make(30)[0].id
    assert verify(ledger).problems == []


def test_conflicts() -> None:
    def edit(name: str, *facts: tuple[str, str]) -> tuple:
        made = [make(0, prompt=p, target=t)[0].facts[0] for p, t in facts]
        return name * 16, made

    ours = [edit("a", ("{} x", "1")), edit("b", ("{} y", "1"), ("{} z", "1"))]
    theirs = [
        edit("c", ("{} y", "2"), ("{} w", "2")),
        edit("d", ("{} x", "1")),
        edit("e", ("{} v", "3")),
    ]
    with pytest.raises(ConflictError, match=r"'1' \(ours, b+\) or '2' \(theirs, c+\)"):
        merge(ours, theirs)
    plan = merge(ours, theirs, take="theirs")
    assert plan.add == ("c" * 16, "e" * 16)
    assert plan.drop == ("b" * 16,)
    assert plan.skip == ("d" * 16,)  # says the same again
    assert [held.fact.text for held in plan.lost] == ["edits z"]
    plan = merge(ours, theirs, take="ours")
    assert plan.add == ("e" * 16,)
    assert plan.drop == ()
    assert [held.fact.text for held in plan.lost] == ["edits w"]
    assert merge(ours, theirs, resolve={"c" * 16: "theirs"}).drop == ("b" * 16,)
    assert merge(ours, theirs, resolve={"b" * 16: "ours"}).drop == ()
    with pytest.raises(UnknownNameError, match="mine"):
        merge(ours, theirs, take="mine")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen")
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def test_signatures(key: Path, tmp_path: Path) -> None:
    signed = Ledger.create(tmp_path / "signed", BASE, signer=key)
    signed.commit("edit", add=[make(1)])
    public = key.with_suffix(".pub").read_text().split()
    allowed = tmp_path / "allowed"
    allowed.write_text(f"ada@example.org {public[0]} {public[1]}\n")
    found = verify(signed, allowed=allowed, require_signatures=True)
    assert found.problems == []
    assert found.signed == {"ada@example.org": 2}
    assert verify(signed).signed == {"unknown signer": 2}
    signed.signer = None
    signed.commit("edit", add=[make(2)])
    assert verify(signed, allowed=allowed).unsigned == 1
    assert "not signed" in verify(signed, require_signatures=True).problems[0]
    first, second = (
        signed.path / "signatures" / f"{e.hash}.sig" for e in signed.history.entries[:2]
    )
    shutil.copy(first, second)
    assert "no signature of its entry" in verify(signed).problems[0]
    allowed.write_text("")
    assert len(verify(signed, allowed=allowed).problems) == 2
    signed.signer = tmp_path / "no-key"
    with pytest.raises(ConfigError, match="no key"):
        signed.commit("edit", add=[make(3)])
    signed.signer = allowed
    with pytest.raises(ConfigError, match="cannot sign"):
        signed.commit("edit", add=[make(3)])
    assert len(ids(signed)) == 2


@pytest.mark.parametrize("name", ["l.tar", "l.tar.gz", "l.tgz"])
def test_packing(name: str, ledger: Ledger, tmp_path: Path) -> None:
    count = archive.pack(ledger, tmp_path / name)
    assert count == 1 + 3 * 4
    again = archive.unpack(tmp_path / name, tmp_path / "again")
    assert ids(again) == ids(ledger)
    assert [e.hash for e in again.history.entries] == [e.hash for e in ledger.history.entries]
    with archive.opened(tmp_path / name) as opened:
        assert ids(opened) == ids(ledger)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        "edits/../../evil",
        "edits/0123456789abcdef/evil.pkl",
        "journal.jsonl/x",
    ],
)
def test_archives_that_lead_out(name: str, ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(ledger.path / "journal.jsonl", "journal.jsonl")
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(LedgerError, match="no part of a ledger"):
        archive.unpack(path, tmp_path / "in" / "here")
    assert not (tmp_path / "in" / "here").exists()
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_archives_with_links(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("journal.jsonl")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(LedgerError, match="no part of a ledger"):
        archive.unpack(path, tmp_path / "here")


def test_broken_archives(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no archive")
    with pytest.raises(LedgerError, match="cannot be read"):
        archive.unpack(tmp_path / "x.tar", tmp_path / "here")
    with pytest.raises(LedgerError, match="does not exist"):
        archive.unpack(tmp_path / "nowhere.tar", tmp_path / "here")
    (ledger.path / "edits" / ids(ledger)[0] / "patch.safetensors").write_bytes(b"x")
    archive.pack(ledger, tmp_path / "y.tar")
    with pytest.raises(LedgerError, match="not whole"):
        archive.unpack(tmp_path / "y.tar", tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_push_and_pull(ledger: Ledger, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    (ledger.path / "private.txt").write_text("stays here")

    def upload(*, repo_id: str, folder_path: str, allow_patterns: list[str], **more: object):
        for name in allow_patterns:
            (remote / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder_path) / name, remote / name)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    def download(repo: str, *, local_dir: str, **more: object) -> None:
        shutil.copytree(remote, local_dir, dirs_exist_ok=True)

    api = SimpleNamespace(create_repo=lambda *a, **k: None, upload_folder=upload)
    done = hub.push(ledger.path, "me/edits", dry_run=True)
    assert done.url is None
    assert not remote.exists()
    assert hub.push(ledger.path, "me/edits", api=api).files == done.files
    assert not (remote / "private.txt").exists()
    mine = tmp_path / "mine"
    assert hub.pull("me/edits", mine, download=download) == 4
    assert ids(Ledger(mine)) == ids(ledger)
    ledger.commit("edit", add=[make(20)])
    hub.push(ledger.path, "me/edits", api=api)
    assert hub.pull("me/edits", mine, download=download) == 1
    assert hub.pull("me/edits", mine, download=download) == 0
    assert ids(Ledger(mine)) == ids(ledger)
    assert verify(Ledger(mine)).problems == []
    Ledger(mine).commit("edit", add=[make(21)])
    ledger.commit("edit", add=[make(22)])
    hub.push(ledger.path, "me/edits", api=api)
    with pytest.raises(LedgerError, match="different ways"):
        hub.pull("me/edits", mine, download=download)
    (remote / "edits" / ids(ledger)[0] / "edit.json").write_text("{}")
    with pytest.raises(LedgerError, match="not whole"):
        hub.pull("me/edits", tmp_path / "new", download=download)
    other = Ledger.create(tmp_path / "other", "1" * 64)
    with pytest.raises(FingerprintError):
        archive.receive(ledger.path, other.path)
    with pytest.raises(ConfigError, match="neither"):
        hub.push(tmp_path, "me/edits", dry_run=True)


def test_the_hub_cannot_be_reached(ledger: Ledger, tmp_path: Path) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise OSError("no network")

    api = SimpleNamespace(create_repo=refuse)
    with pytest.raises(ResourceError, match="no network"):
        hub.push(ledger.path, "me/edits", api=api)
    with pytest.raises(ResourceError, match="no network"):
        hub.pull("me/edits", tmp_path / "new", download=refuse)
    assert not (tmp_path / "new").exists()


def test_log_is_quick_and_loads_no_torch(ledger: Ledger) -> None:
    code = "import sys\nfrom alphaedit.cli.app import run\nrun(['log', sys.argv[1]])\n"
    code += "sys.exit('torch' in sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", code, str(ledger.path)], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.count("made-up: Number") == 3


def test_commands_that_need_no_model(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, (a, b, c) = str(ledger.path), ids(ledger)

    def say(*argv: str, code: int = 0) -> dict:
        assert run([*argv, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    assert [e["op"] for e in say("log", place)["entries"]] == ["edit"] * 3 + ["init"]
    assert len(say("log", place, "-n", "1")["entries"]) == 1
    assert say("status", place)["facts"] == 3
    shown = say("show", place, b[:6])
    assert shown["matrices"]["a.weight"]["rank"] == 1
    assert say("diff", place, "@1", "head")["facts"][0]["b"] == "new"
    assert say("revert", place, b, "--no-measure")["dependants"] == [c]
    assert say("apply", place, b, "--no-measure")["edits"] == [a, c, b]
    assert say("checkout", place, "head~2", "--why", "back")["edits"] == [a, b, c]
    assert say("revert", place, "-n", "4", code=1)["error"]["type"] == "EditFileError"
    assert say("squash", place, "--last", "2")["matrices"][0]["given"] == 2
    assert say("gc", place, "--dry-run", "--prune")["pruned"] == sorted([b, c])
    assert say("gc", place, "--prune")["pruned"] == sorted([b, c])
    assert say("checkout", place, "@3", code=1)["error"]["type"] == "LedgerError"
    packed = str(tmp_path / "l.tgz")
    assert say("pack", place, packed)["files"] == 9
    assert say("pack", place, packed, code=1)["error"]["type"] == "ConfigError"
    new = str(tmp_path / "new")
    assert len(say("unpack", packed, new)["edits"]) == 2
    assert say("unpack", packed, new, code=1)["error"]["type"] == "ConfigError"
    assert say("merge", new, place, "--no-measure")["entry"] is None
    assert say("push", place, "me/x", "--dry-run")["kind"] == "ledger"
    assert say("verify", place)["ok"]
    (ledger.path / "edits" / a / "edit.json").write_text("{}")
    assert not say("verify", place, code=1)["ok"]
    assert say("push", place, "me/x", "--dry-run", code=1)["error"]["type"] == "LedgerError"


def test_no_pickle_anywhere() -> None:
    source = Path(module.__file__).parents[1]
    for path in source.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        assert "torch.load(" not in text, path
        assert "torch.save(" not in text, path


def test_an_error_is_an_edit_file_error() -> None:
    assert issubclass(LedgerError, EditFileError)
