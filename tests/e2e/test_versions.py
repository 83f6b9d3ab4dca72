"""Back to a list of edits is back to its weights, bit for bit; what is recorded is what is so."""

import random
from pathlib import Path

import pytest
import torch
from tests.tiny import SENTENCES, tiny_model

from alphaedit import Editor, Fact
from alphaedit.core.errors import EditFileError, LedgerError, ResourceError
from alphaedit.editor.measured import ask_facts, says
from alphaedit.ledger.ledger import Ledger

OVER = {"layers": (1, 2), "steps": 2, "contexts": 1, "energy": 0.9, "ridge": 1.0}
CITIES = ["Paris", "Madrid", "Rome", "Berlin", "London", "Vienna"]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    return str(text)


def an_editor(corpus: str, kind: str = "gpt2", dtype: str | None = None) -> Editor:
    return Editor.from_pretrained(
        *tiny_model(kind),
        corpus=corpus,
        tokens=400,
        dtype=dtype,
        cache_dir=Path(corpus).parent / "cache",
    )


def weights(editor: Editor) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in editor.handle.model.state_dict().items()}


def same(editor: Editor, wanted: dict[str, torch.Tensor]) -> bool:
    now = editor.handle.model.state_dict()
    return all(torch.equal(now[name], wanted[name]) for name in wanted)


def a_fact(number: int) -> Fact:
    return Fact("The capital of {} is", f"Land {number}", CITIES[number % len(CITIES)])


@pytest.mark.parametrize(
    ("kind", "dtype"), [("gpt2", None), ("llama", "bfloat16"), ("gpt_neox", "float64")]
)
def test_any_way_back_is_exact(kind: str, dtype: str | None, corpus: str, tmp_path: Path) -> None:
    editor = an_editor(corpus, kind, dtype)
    editor.track(tmp_path / "ledger")
    rng = random.Random(kind)
    seen = {editor.ledger.head.id: weights(editor)}
    for number in range(24):
        what = rng.choice(["edit", "edit", "revert", "revert", "checkout"])
        if what == "edit" or not editor.edits:
            editor.edit(a_fact(number), rng.choice(["alphaedit", "memit"]), **OVER)
        elif what == "revert":
            editor.forget(e.id for e in rng.sample(editor.edits, rng.randint(1, len(editor.edits))))
        else:
            version = rng.choice(editor.ledger.history.versions)
            editor.set_edits(editor.ledger.edits(version))
            editor.ledger.sync(editor.ledger.edits(version), op="checkout")
        head = editor.ledger.head
        assert [edit.id for edit in editor.edits] == head.edits
        assert same(editor, seen.setdefault(head.id, weights(editor)))
        assert editor.state.edits == len(editor.edits)
    assert len(seen) > 8
    again = an_editor(corpus, kind, dtype)
    for entry in range(0, len(editor.ledger.history.entries), 5):
        again.set_edits([])
        again.load(tmp_path / "ledger", f"@{entry}")
        assert same(again, seen[editor.ledger.version(f"@{entry}").id])


def test_what_cannot_be_recorded_is_not_done(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = an_editor(corpus)
    editor.track(tmp_path / "ledger")
    editor.edit(a_fact(0), **OVER)
    editor.edit(a_fact(1), **OVER)
    before, edits, state = weights(editor), list(editor.edits), editor.state

    def full(*args: object, **more: object) -> None:
        raise ResourceError("No space left.")

    monkeypatch.setattr("alphaedit.ledger.journal.append", full)
    for change in (
        lambda: editor.edit(a_fact(2), **OVER),
        lambda: editor.revert(),
        lambda: editor.revert(edits[0].id),
    ):
        with pytest.raises(ResourceError):
            change()
        assert same(editor, before)
        assert editor.edits == edits
        assert editor.state is state
    monkeypatch.undo()
    editor.revert()
    assert Ledger(tmp_path / "ledger").head.edits == [edits[0].id]


def test_somebody_else_changed_the_ledger(corpus: str, tmp_path: Path) -> None:
    editor = an_editor(corpus)
    editor.track(tmp_path / "ledger")
    editor.edit(a_fact(0), **OVER)
    before = weights(editor)
    other = Ledger(tmp_path / "ledger")
    other.commit("revert", drop=other.head.edits)
    with pytest.raises(LedgerError, match="changed meanwhile"):
        editor.edit(a_fact(1), **OVER)
    assert same(editor, before)


def test_preview_leaves_no_trace(corpus: str, tmp_path: Path) -> None:
    editor = an_editor(corpus)
    editor.track(tmp_path / "ledger")
    editor.edit(a_fact(0), **OVER)
    before, state = weights(editor), editor.state
    with editor.preview([a_fact(1), a_fact(2)], **OVER) as edit:
        assert len(edit.facts) == 2
        assert not same(editor, before)
    assert same(editor, before)
    with pytest.raises(KeyError), editor.preview(a_fact(3), **OVER):
        raise KeyError
    assert same(editor, before)
    assert editor.state is state
    assert len(editor.ledger.history.entries) == 2
    editor.edit(a_fact(4), **OVER)
    assert editor.ledger.head.size == 2


def test_forgetting_what_is_not_there(corpus: str) -> None:
    editor = an_editor(corpus)
    editor.edit(a_fact(0), **OVER)
    before = weights(editor)
    with pytest.raises(EditFileError, match="No edits have an id"):
        editor.forget([editor.edits[0].id, "abcd"])
    assert same(editor, before)
    assert editor.forget([editor.edits[0].id[:6]])[0].facts == (a_fact(0),)


@pytest.mark.parametrize(
    ("text", "target", "holds"),
    [
        (" Paris. It", "Paris", True),
        ("Paris", "Paris", True),
        (" Parisian", "Paris", False),
        (" the  Louvre, which", "the Louvre", True),
        (" Rome", "Paris", False),
        ("", "Paris", False),
    ],
)
def test_what_holds(text: str, target: str, holds: bool) -> None:
    assert says(text, target) is holds


def test_asking_no_facts(corpus: str) -> None:
    assert ask_facts(an_editor(corpus), []) == []
