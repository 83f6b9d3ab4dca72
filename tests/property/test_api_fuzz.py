"""Calls of the Python API with arguments of any kind: explained or done, and nothing lost."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz import assert_told, both, profile
from tests.tiny import SENTENCES, tiny_model

from alphaedit import (
    Edit,
    Editor,
    Fact,
    Guard,
    Patch,
    evaluate,
    get_method,
    get_plugin,
    load_facts,
    load_records,
)
from alphaedit.core.errors import AlphaEditError
from alphaedit.core.patch import LowRank
from alphaedit.ledger.ledger import Ledger
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.plugin import make
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics

F = Fact("The capital of {} is", "France", "Berlin")
SETTINGS: dict[str, Any] = {"layers": (1,), "steps": 2, "contexts": 0, "energy": 0.5}

NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 10**30, 10**400, float("nan"), 1e308])
)
# Names of files stay inside the scratch directory.
TEXTS = st.one_of(
    st.text(max_size=20).filter(lambda text: "/" not in text and ".." not in text),
    st.sampled_from(
        ["", " ", "{}", "bundeld", "nothing.jsonl", "facts.jsonl", "folder", "\0", "\ud800"]
    ),
)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    TEXTS,
    st.binary(max_size=8),
    st.sampled_from(
        [F, (), [], {}, set(), object(), int, Path("folder"), Path("facts.jsonl"), torch.ones(2)]
    ),
    st.builds(lambda: iter([F])),
)
VALUES = st.recursive(
    ODD,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner, inner),
        st.dictionaries(TEXTS, inner, max_size=3),
        st.fixed_dictionaries({"prompt": inner, "subject": inner, "target": inner}),
    ),
    max_leaves=5,
)

FIELDS = ("prompt", "subject", "target", "truth", "paraphrases", "neighborhood", "id")
OPTIONS = ("preset", "chat", "why", *Hyperparameters.model_fields)
LOADING = (
    "device",
    "dtype",
    "seed",
    "corpus",
    "tokens",
    "tolerance",
    "cache_dir",
    "progress",
    "guard",
)
KEYWORDS = ("prompts", "subject", "target_new", "ground_truth", "rephrase_prompts")


def _some(draw: Any, names: tuple[str, ...], most: int = 3) -> dict[str, Any]:
    chosen = draw(st.lists(st.sampled_from(names), max_size=most, unique=True))
    return {name: draw(VALUES) for name in chosen}


def _loaded(given: dict[str, Any]) -> None:
    Editor.from_pretrained(*tiny_model("gpt2"), **given)


CALLS: dict[str, Any] = {
    "fact": lambda e, d: Fact(
        **{"prompt": "{} is", "subject": "a", "target": "b", **_some(d, FIELDS)}
    ),
    "from_dict": lambda e, d: Fact.from_dict(d(VALUES)),
    "load_facts": lambda e, d: load_facts(d(VALUES)),
    "edit": lambda e, d: e.edit(d(VALUES), **SETTINGS),
    "edit options": lambda e, d: e.edit(F, **{**SETTINGS, **_some(d, OPTIONS)}),
    "edit method": lambda e, d: e.edit(F, d(VALUES), **SETTINGS),
    "edit keywords": lambda e, d: e.edit(**SETTINGS, **_some(d, KEYWORDS, 4)),
    "edit_batches": lambda e, d: e.edit_batches(d(VALUES), batch_size=d(VALUES), **SETTINGS),
    "hyperparameters": lambda e, d: e.hyperparameters(
        d(st.one_of(st.just("memit"), VALUES)),
        d(VALUES),
        **{"layers": (1,), **_some(d, OPTIONS[3:])},
    ),
    "ask": lambda e, d: e.ask(d(VALUES), **_some(d, ("chat",))),
    "ask length": lambda e, d: e.ask(F.text, d(st.one_of(st.integers(-3, 50), VALUES))),
    "revert": lambda e, d: e.revert(d(VALUES)),
    "forget": lambda e, d: e.forget(d(VALUES), why=d(VALUES)),
    "apply": lambda e, d: e.apply(d(VALUES)),
    "set_edits": lambda e, d: e.set_edits(d(VALUES)),
    "save": lambda e, d: e.save(d(VALUES), **_some(d, ("model", "why"))),
    "load": lambda e, d: e.load(d(VALUES), d(VALUES)),
    "track": lambda e, d: e.track(d(VALUES), **_some(d, ("model",))),
    "export": lambda e, d: e.export(d(VALUES), d(VALUES), **_some(d, ("tolerance",))),
    "export lora": lambda e, d: e.export(d(VALUES), **_some(d, ("tolerance", "base"))),
    "save_pretrained": lambda e, d: e.save_pretrained(d(VALUES)),
    "evaluate": lambda e, d: e.evaluate(d(VALUES), **_some(d, ("limit", "schema", "seed"))),
    "answers": lambda e, d: e.answers(d(VALUES)),
    "from_pretrained": lambda e, d: _loaded(_some(d, LOADING)),
    "from_pretrained name": lambda e, d: Editor.from_pretrained(d(VALUES), device="cpu"),
    "guard": lambda e, d: Guard(
        **_some(d, ("action", "max_kl", "max_perplexity", "text", "tokens"))
    ),
    "guard text": lambda e, d: Guard.parse(d(VALUES)),
    "edit load": lambda e, d: Edit.load(d(VALUES)),
    "ledger": lambda e, d: Ledger(d(VALUES)),
    "ledger create": lambda e, d: Ledger.create(d(VALUES), "0" * 64),
    "method": lambda e, d: get_method(d(VALUES)),
    "method settings": lambda e, d: get_method("memit")(**_some(d, OPTIONS[3:])),
    "method object": lambda e, d: e.edit(F, get_method("memit")(**SETTINGS), plugins=d(VALUES)),
    "forget facts": lambda e, d: e.forget_facts(d(VALUES), why=d(VALUES)),
    "evaluate a model": lambda e, d: evaluate(e, d(VALUES), **_some(d, ("limit", "tokenizer"))),
    "load_records": lambda e, d: load_records(d(VALUES), **_some(d, ("schema", "limit", "seed"))),
    "plug-in by name": lambda e, d: get_plugin(d(VALUES)),
    "plug-in": lambda e, d: make(d(VALUES)),
    "plug-in option": lambda e, d: make(f"sphere:strength={d(ODD)}"),
    "patch": lambda e, d: Patch(d(VALUES), d(VALUES), d(VALUES)),
    "low rank": lambda e, d: LowRank(d(VALUES), d(VALUES)),
}


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    folder = tmp_path_factory.mktemp("api")
    (folder / "text.txt").write_text("\n\n".join(SENTENCES * 10), encoding="utf-8")
    handle = ModelHandle.load(*tiny_model("gpt2"))
    statistics = ModelStatistics(handle, str(folder / "text.txt"), tokens=300, cache_dir=folder)
    editor = Editor(handle, statistics, progress=False)
    editor.statistics.prepare([0, 1, 2, 3])
    return editor


@both(150)
@pytest.mark.filterwarnings("ignore")
def test_any_arguments_are_done_or_explained(
    count: int, editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"prompt": "{} is in", "subject": "Oslo", "target": "Spain"}\n')
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    outside = set(os.listdir(tmp_path.parent))
    base = {layer: editor.handle.weight(layer) for layer in range(4)}

    @profile(count)
    @given(st.sampled_from(sorted(CALLS)), st.data())
    def one(name: str, data: st.DataObject) -> None:
        before = {layer: editor.handle.weight(layer) for layer in range(4)}
        edits = list(editor.edits)
        told = assert_told(lambda: CALLS[name](editor, data.draw))
        if isinstance(told, AlphaEditError):
            assert editor.edits == edits
            assert all(torch.equal(editor.handle.weight(k), v) for k, v in before.items())
        if editor.edits or editor.ledger is not None:
            editor.ledger = None
            editor.set_edits([])
        assert all(torch.equal(editor.handle.weight(k), v) for k, v in base.items())
        assert (tmp_path / "folder" / "mine.txt").read_text() == "mine"
        assert facts.read_text().count("Oslo") == 1

    one()
    assert set(os.listdir(tmp_path.parent)) == outside
