"""Journals and edits of others: types are checked when they are read."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.forge import Forged, good
from tests.fuzz import run_cli
from tests.ledgers import BASE, make

from alphaedit.core.change import HookChange, MemoryChange
from alphaedit.core.edit import Edit, edit_id
from alphaedit.core.errors import EditFileError, LedgerError
from alphaedit.core.patch import LowRank, Patch
from alphaedit.ledger.check import verify
from alphaedit.ledger.ledger import Ledger
from alphaedit.ledger.squash import squash
from alphaedit.methods.state import SequentialState


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good(tmp_path_factory.mktemp("origin") / "ledger").path


@pytest.fixture
def ledger(origin: Path, tmp_path: Path) -> Ledger:
    return Ledger(shutil.copytree(origin, tmp_path / "ledger"))


def forge(ledger: Ledger, place: Path, at: int, **fields: object) -> Path:
    """A copy in which one entry says something else, with right hashes and versions."""
    forged = Forged(ledger.path)
    forged.entries[at] |= fields
    if "version" not in fields:
        forged.follow()
    return forged.write(place / "forged")


ID, HASH = "a" * 16, "b" * 64
ABOUT = {"facts": 1, "method": "m", "created": "", "first": ""}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"files": -1}, "files"),
        ({"files": {ID: []}}, f"files.{ID}"),
        ({"files": {ID: {"edit.json": 3}}}, f"files.{ID}.edit.json"),
        ({"files": {ID: {"edit.json": "zz"}}}, f"files.{ID}.edit.json"),
        ({"files": {"../x": {}}}, "files.../x.[key]"),
        ({"more": "x"}, "more"),
        ({"more": {"pruned": 3}}, "more.pruned"),
        ({"more": {"pruned": [None]}}, "more.pruned.0"),
        ({"about": True}, "about"),
        ({"about": {ID: {**ABOUT, "facts": "many"}}}, f"about.{ID}.facts"),
        ({"about": {ID: {**ABOUT, "first": None}}}, f"about.{ID}.first"),
        ({"add": [None]}, "add.0"),
        ({"add": "abc"}, "add"),
        ({"drop": {}}, "drop"),
        ({"start": True}, "start"),
        ({"start": -1}, "start"),
        ({"op": 7}, "op"),
        ({"version": None}, "version"),
        ({"who": []}, "who"),
        ({"why": {"a": 1}}, "why"),
        ({"when": 12}, "when"),
        ({"number": "2"}, "number"),
    ],
)
def test_types_of_a_journal(
    fields: dict[str, object], field: str, ledger: Ledger, tmp_path: Path
) -> None:  # finding 16
    place = forge(ledger, tmp_path, 2, **fields)
    with pytest.raises(LedgerError) as told:
        Ledger(place)
    assert told.value.message.startswith(f"{place}/journal.jsonl, line 3: field {field!r}")
    assert told.value.remedy
    code, _, err = run_cli(["log", str(place)])
    assert code == 1
    assert f"field {field!r}" in err


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"add": [ID]}, "no entry brought"),
        ({"more": {"pruned": [ID]}}, "no entry brought"),
        ({"files": {ID: {}}}, "no entry brought"),
        ({"drop": [ID]}, "is not in force"),
        ({"start": 99}, "no entry 99"),
    ],
)
def test_what_a_journal_cannot_mean(
    fields: dict[str, object], said: str, ledger: Ledger, tmp_path: Path
) -> None:  # finding 16
    place = forge(ledger, tmp_path, 5, **fields)
    with pytest.raises(LedgerError, match=rf"journal.jsonl, line 6: Entry 5 .*{said}"):
        Ledger(place)


@pytest.mark.parametrize("body", [b"3", b"[]", b"null", b'{"number":', b"[" * 5000, b'"\\ud800"'])
def test_lines_that_are_no_entries(body: bytes, ledger: Ledger) -> None:  # finding 16
    path = ledger.path / "journal.jsonl"
    digest = sha256(ledger.history.entries[-1].hash.encode() + body).hexdigest()
    with path.open("ab") as file:
        file.write(b'{"hash":"%s","entry":%s}\n' % (digest.encode(), body))
    with pytest.raises(LedgerError, match=r"journal.jsonl, line 9: "):
        Ledger(ledger.path)


def test_formats(ledger: Ledger, tmp_path: Path) -> None:  # finding 16
    more = {"format": 2, "base": BASE, "model": "", "news": [1]}
    place = forge(ledger, tmp_path, 0, more=more, unknown={"a": 1})
    with pytest.raises(LedgerError, match="format 2, this version reads 1") as told:
        Ledger(place)
    assert "newer version" in str(told.value)
    for number, wrong in enumerate((None, "1", True, [])):
        place = forge(ledger, tmp_path / str(number), 0, more={**more, "format": wrong})
        with pytest.raises(LedgerError, match=r"field 'more.format'"):
            Ledger(place)
    place = forge(ledger, tmp_path / "y", 0, more={**more, "format": 1}, unknown={"a": 1})
    assert Ledger(place).head.id == ledger.head.id


def change(ledger: Ledger, place: Path, name: str = "edit.json", **fields: object) -> Ledger:
    """A copy in which one JSON file of the first edit says something else, with right hashes."""
    forged = Forged(ledger.path)
    edit = ledger.head.edits[0]
    held = json.loads(forged.files[edit][name]) | fields
    forged.files[edit][name] = json.dumps(held).encode()
    forged.seal()
    return Ledger(forged.write(place / "forged"))


ANSWER = {"text": "t", "p_target": 0.5, "p_truth": None}


@pytest.mark.parametrize(
    ("name", "fields", "field"),
    [
        ("edit.json", {"method": 3}, "method"),
        ("edit.json", {"created": None}, "created"),
        ("edit.json", {"id": "x"}, "id"),
        ("edit.json", {"parent": 1}, "parent"),
        ("edit.json", {"base": []}, "base"),
        ("edit.json", {"hyperparameters": []}, "hyperparameters"),
        ("edit.json", {"metadata": "x"}, "metadata"),
        ("edit.json", {"prompt": 1}, "prompt"),
        ("edit.json", {"facts": {}}, "facts"),
        ("edit.json", {"facts": [3]}, "facts.0"),
        ("edit.json", {"before": [None]}, "before.0"),
        ("edit.json", {"after": [{**ANSWER, "p_target": "1"}]}, "after.0.p_target"),
        ("edit.json", {"after": [ANSWER, ANSWER]}, "after"),
        ("edit.json", {"null_space": {"a": {"dim": 1, "d_in": 0, "energy_left": 0.1}}}, "d_in"),
        ("edit.json", {"seconds": {"solve": "long"}}, "seconds.solve"),
        ("edit.json", {"drift": 0}, "drift"),
        ("edit.json", {"verdict": [1]}, "verdict.0"),
        ("edit.json", {"measured": {"over": []}}, "measured.over"),
        ("edit.json", {"format": "1"}, "format"),
        ("state.json", {"contexts": "a text"}, "contexts"),
        ("state.json", {"contexts": [1]}, "contexts.0"),
        ("state.json", {"edits": -1}, "edits"),
        ("state.json", {"kept": None}, "kept"),
    ],
)
def test_types_of_an_edit(
    name: str, fields: dict[str, object], field: str, ledger: Ledger, tmp_path: Path
) -> None:  # finding 16
    forged = change(ledger, tmp_path, name, **fields)
    edit = ledger.head.edits[0]
    with pytest.raises(LedgerError) as told:
        forged.read(edit)
    assert f"{edit}/{name}: field '" in told.value.message
    assert field in told.value.message
    assert told.value.remedy
    if name == "edit.json":
        with pytest.raises(LedgerError, match=name):
            forged.store.facts(edit, forged.files_of(edit))
        with pytest.raises(EditFileError, match=name):
            Edit.load(forged.store.folder(edit))
    assert len(verify(forged).problems) == 1
    for argv in (["show", "@1"], ["verify"], ["diff", "base"], ["checkout", "@1"], ["squash"]):
        code, _, err = run_cli([argv[0], str(forged.path), *argv[1:]])
        # Some of these do not read all of an edit.
        assert code == 1 or argv[0] == "diff" or not err


def test_newer_edits(ledger: Ledger, tmp_path: Path) -> None:  # finding 16
    forged = change(ledger, tmp_path, news={"a": [1]}, after=[{**ANSWER, "entropy": 3}])
    edit, _ = forged.read(ledger.head.edits[0])
    assert edit.after[0].p_target == 0.5
    forged = change(ledger, tmp_path / "x", format=3, method=None)
    with pytest.raises(LedgerError, match="format 3, this version reads 1 to 2") as told:
        forged.read(ledger.head.edits[0])
    assert "newer version" in str(told.value)


@pytest.mark.parametrize(
    ("name", "key", "tensor"),
    [
        ("state.safetensors", "keys.x", torch.zeros(3, 1)),
        ("state.safetensors", "keys.-1", torch.zeros(3, 1)),
        ("state.safetensors", "keys.3", torch.zeros(3)),
        ("state.safetensors", "keys.3", torch.zeros(3, 1, dtype=torch.int64)),
        ("state.safetensors", "memory.", torch.zeros(1)),
        ("state.safetensors", "other", torch.zeros(1)),
        ("state.safetensors", "memory.a", torch.zeros(1, dtype=torch.complex64)),
        ("patch.safetensors", "other", torch.zeros(1)),
        ("patch.safetensors", "weights/b/left", torch.zeros(1, 1)),
        ("patch.safetensors", "weights/a.weight/left", torch.zeros(4, 2)),
        ("patch.safetensors", "weights/a.weight/left", torch.zeros(4, 1, dtype=torch.float16)),
        ("patch.safetensors", "weights/a.weight/left", torch.full((4, 1), float("nan"))),
        ("patch.safetensors", "modules/a/b", torch.zeros(1, dtype=torch.float8_e4m3fn)),
    ],
)
def test_tensors_of_an_edit(
    name: str, key: str, tensor: torch.Tensor, ledger: Ledger, tmp_path: Path
) -> None:  # finding 16
    edit = ledger.head.edits[0]
    path = ledger.store.folder(edit) / name
    save_file({**load_file(path), key: tensor}, path)
    forged = Forged(ledger.path)
    forged.seal()
    other = Ledger(forged.write(tmp_path / "forged"))
    with pytest.raises(LedgerError, match=name.replace(".", r"\.")):
        other.read(edit)
    assert len(verify(other).problems) == 1


def test_an_edit_under_another_id(ledger: Ledger, tmp_path: Path) -> None:
    edit, other = ledger.head.edits
    forged = Forged(ledger.path)
    forged.files[edit] = forged.files[other]
    forged.seal()
    swapped = Ledger(forged.write(tmp_path / "forged"))
    with pytest.raises(LedgerError, match=f"{edit} holds edit {other}"):
        swapped.read(edit)


def test_ids_are_of_the_bytes() -> None:
    edit, _ = make(1)
    digest = sha256()
    for name, tensor in sorted(edit.patch.tensors().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    digest.update(json.dumps([f.to_dict() for f in edit.facts], sort_keys=True).encode())
    digest.update(repr((None, None)).encode())
    assert edit.id == digest.hexdigest()[:16]
    half = torch.ones(2, 2, dtype=torch.bfloat16)
    owner = torch.tensor([0, 0])
    ids = {
        edit_id(Patch(changes=(HookChange("a", owner, {"t": t}, options=o),)), (), None)
        for t, o in ((half, {}), (half * 2, {}), (half, {"layer": 1}))
    }
    assert len(ids) == 3


def test_edits_of_both_formats_load(tmp_path: Path) -> None:
    edit, _ = make(1)
    old = edit.save(tmp_path / "old")
    data = json.loads((old / "edit.json").read_text())
    # As every version has written them, which older ones read.
    assert (data["format"], data["prompt"], "changes" in data) == (1, None, False)
    assert Edit.load(old).id == edit.id
    change = MemoryChange("ike", torch.tensor([0]), texts=("A note.",), options={"layer": 2})
    patch = Patch(changes=(change,))
    new = replace(edit, patch=patch, id=edit_id(patch, edit.facts, edit.parent))
    folder = new.save(tmp_path / "new")
    data = json.loads((folder / "edit.json").read_text())
    assert (data["format"], data["changes"][0]["kind"]) == (2, "memory")
    (read,) = Edit.load(folder).patch.changes
    assert (read.texts, read.options) == (("A note.",), {"layer": 2})
    data["changes"][0]["texts"] = ["Another note."]
    (folder / "edit.json").write_text(json.dumps(data))
    with pytest.raises(EditFileError, match="changed after it was written"):
        Edit.load(folder)


def test_edits_of_different_models_are_not_added_up() -> None:
    (one, learned), (other, more) = make(1), make(2)
    wide = Patch({"a.weight": LowRank(torch.ones(4, 1), torch.ones(1, 5))})
    with pytest.raises(LedgerError, match="different shapes"):
        squash([(one, learned), (replace(other, patch=wide), more)])
    left, right = (torch.full(s, 1e200, dtype=torch.float64) for s in ((4, 1), (1, 3)))
    huge = Patch({"a.weight": LowRank(left, right)})
    with pytest.raises(LedgerError, match="too large"):
        squash([(one, learned), (replace(other, patch=huge), more)])
    with pytest.raises(EditFileError, match="3 and 5 entries"):
        SequentialState.of([learned, replace(more, keys={2: torch.ones(5, 1)})])
