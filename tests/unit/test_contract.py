"""What every method promises, on three families: saved, undone and exported, or refused by name."""

import inspect
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learned import untrained
from tests.tiny import SENTENCES, tiny_model
from torch import Tensor

from alphaedit import Edit, Editor, Fact
from alphaedit.bench.sources import records_of
from alphaedit.cli.app import run
from alphaedit.core.errors import AlphaEditError, AlphaEditWarning, ConfigError
from alphaedit.methods.learned.method import LearnedMethod
from alphaedit.methods.registry import methods
from alphaedit.model.generate import generate, generate_ids
from alphaedit.model.route import plain, request
from alphaedit.model.scoring import score
from alphaedit.stats import phrasings

FACTS = [
    Fact("The capital of {} is", "France", "Madrid"),
    Fact("{} is a city in", "Oslo", "Spain"),
    Fact("The capital of {} is", "Italy", "Vienna and more"),
]
ASKED = [fact.text for fact in FACTS]
OTHERS = ["Birds can sing in", "The river flows to the", "Once upon a time"]
FAMILIES = ("gpt2", "llama", "gemma2")
SETTINGS: dict[str, dict[str, Any]] = {
    "grace": {"layers": (1,), "radius": 0.5, "steps": 30, "clamp": 20.0},
    "gated": {"layers": (0, 1), "look": 0, "gate": 0.97, "steps": 10, "contexts": 0},
    "ike": {"scope": "subject", "demonstrations": 1, "pool": "memory"},
    "rag": {},
    "memprompt": {},
    "mello": {"judge": "words"},
    "serac": {"editor": "untrained", "layers": (1,)},
    "melo": {"layers": (1,), "radius": 0.5, "steps": 60},
    "t-patcher": {"layers": (1,), "steps": 60, "quiet_weight": 30.0},
    "memoir": {"layers": (1,), "k": 12, "overlap": 0.95, "contexts": 1},
    "wise": {"layers": (2,), "ratio": 0.9, "contexts": 0, "mask": 1.0},
}
QUICK: dict[str, Any] = {"layers": (1,), "steps": 3, "contexts": 1}


def settings(name: str, graph: Path, editor: Editor) -> dict[str, Any]:
    if isinstance(methods()[name], LearnedMethod):
        return {"editor": str(untrained(editor.handle, name, FACTS, graph.parent / "editor"))}
    return {**QUICK, "graph": str(graph)} if name == "glame" else SETTINGS.get(name, QUICK)


@pytest.fixture(params=FAMILIES)
def editor(request: pytest.FixtureRequest, tmp_path: Path) -> Editor:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    return Editor.from_pretrained(
        *tiny_model(request.param), corpus=str(text), tokens=400, cache_dir=tmp_path / "cache"
    )


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "triples.tsv"
    path.write_text("Madrid\tis in\tSpain\nVienna\tis in\tAustria\n", encoding="utf-8")
    return path


def logits(editor: Editor, prompts: list[str]) -> list[Tensor]:
    """Of the last token of each prompt, one pass each, through the model itself."""
    found = []
    for prompt in editor.handle.rendered(prompts):
        ids = torch.tensor([editor.handle.tokens.encode(prompt)])
        with torch.no_grad():
            found.append(editor.model(input_ids=ids).logits[0, -1])
    return found


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method(editor: Editor, name: str, tmp_path: Path, graph: Path) -> None:
    holds_to_the_contract(editor, name, FACTS, settings(name, graph, editor), tmp_path)


@cache
def bundled(model: str) -> Editor:
    """An editor on a bundled model, shared by tests that undo what they do."""
    return Editor.from_pretrained(model, progress=False, tokens=20_000)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(methods()))
@pytest.mark.parametrize("model", ["bundled-small", "bundled"])
def test_every_method_on_the_bundled_models(model: str, name: str, tmp_path: Path) -> None:
    shared = bundled(model)
    editor = Editor(shared.handle, shared.statistics, progress=False)
    facts = [record.fact for record in records_of(editor.handle, "world", 3, 0)]
    fields = methods()[name].config.model_fields
    over = {k: v for k, v in {"steps": 3, "contexts": 1}.items() if k in fields}
    if name in ROUTED:
        own: dict[str, Any] = {"steps": 30, "judge": "words"}
        over = {field: value for field, value in own.items() if field in fields}
    if name == "serac":
        over = SETTINGS[name]
    if isinstance(methods()[name], LearnedMethod):
        over = {"editor": str(untrained(editor.handle, name, facts, tmp_path / "editor"))}
    try:
        holds_to_the_contract(editor, name, facts, over, tmp_path)
    finally:
        editor.set_edits([])


def holds_to_the_contract(
    editor: Editor, name: str, facts: list[Fact], over: dict[str, Any], tmp_path: Path
) -> None:
    method, asked = methods()[name], [*(fact.text for fact in facts), *OTHERS]
    before = logits(editor, asked)
    # Two at first: UltraEdit whitens over all tokens so far, and of one there is nothing left.
    first = editor.edit(facts[:2], name, **over)
    one = logits(editor, asked)
    second = editor.edit(facts[2:], name, **over)
    both = logits(editor, asked)
    assert not equal(one[:1], before[:1])

    # Saved and loaded: the same edit, and the same model.
    loaded = Edit.load(second.save(tmp_path / "second"))
    assert loaded.id == second.id
    ledger = editor.save(tmp_path / "ledger")
    editor.set_edits([])
    assert equal(logits(editor, asked), before)
    editor.load(ledger)
    assert equal(logits(editor, asked), both)

    # Undone, whichever: what is left is as if it had never been.
    editor.revert(second)
    assert equal(logits(editor, asked), one)
    editor.revert(first)
    assert equal(logits(editor, asked), before)
    with editor.preview(facts, name, **over):
        pass
    assert equal(logits(editor, asked), before)

    # Into another form, or refused with the reason.
    editor.edit(facts, name, **over)
    if method.writes:
        acting = logits(editor, asked)
        with pytest.warns(AlphaEditWarning, match="edited anew by alphaedit-weighted"):
            editor.export(tmp_path / "delta", "delta")
        assert equal(logits(editor, asked), acting)
    elif method.installs:
        for form in ("lora", "delta", "checkpoint"):
            with pytest.raises(AlphaEditError, match=r"no adapter or checkpoint|no checkpoint"):
                editor.export(tmp_path / form, form)
    else:
        editor.export(tmp_path / "delta", "delta")
    with pytest.raises(AlphaEditError, match="Unknown hyperparameter"):
        editor.edit(facts, name, no_such_setting=1)


ROUTED = sorted(name for name, method in methods().items() if method.installs)
TOGETHER = ("wise",)
"""Of these all facts of an edit share what is changed."""
BY_FACT = [name for name in ROUTED if name not in TOGETHER]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROUTED)
def test_a_router_that_is_silent_changes_no_bit(editor: Editor, name: str) -> None:
    before = logits(editor, OTHERS)
    rated = score(editor.handle, [(prompt, "a tree") for prompt in OTHERS])
    editor.edit(FACTS, name, **SETTINGS[name])
    assert equal(logits(editor, OTHERS), before)
    assert score(editor.handle, [(prompt, "a tree") for prompt in OTHERS]) == rated
    with plain():
        assert editor.handle.rendered(ASKED) == ASKED


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROUTED)
@pytest.mark.parametrize("replace", ["last", "from_last", "prompt", "all"])
def test_requests_in_batches_and_with_a_cache(editor: Editor, name: str, replace: str) -> None:
    over = {**SETTINGS[name], **({"replace": replace} if name == "grace" else {})}
    if name != "grace" and replace != "last":
        pytest.skip("only of codebooks")
    handle = editor.handle
    editor.edit(FACTS, name, **over)
    prompts = [*ASKED, *OTHERS]
    together = generate(handle, prompts, 6)
    assert together == [generate(handle, [prompt], 6)[0] for prompt in prompts]
    # Without a cache: every token from the whole text, the prompt's end where it was.
    rendered = handle.rendered(prompts)
    encoded = [handle.tokens.encode(prompt) for prompt in rendered]
    ours = generate_ids(handle, encoded, 6)
    for row, own in zip(encoded, ours, strict=True):
        text = list(row)
        for token in own:
            ids = torch.tensor([text])
            with torch.no_grad(), request([len(row) - 1]):
                assert int(handle.forward(ids, torch.ones_like(ids))[0, -1].argmax()) == token
            text.append(token)
    # By transformers' own generate, padded on the left.
    ids, mask = handle.tokens.pad(encoded, "left")
    out = editor.model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=2
    )
    for row, own in zip(out[:, ids.shape[1] :].tolist(), ours, strict=True):
        assert row[: len(own)] == own


def test_a_codebook_says_its_targets_to_the_end() -> None:
    editor = Editor.from_pretrained("bundled-small", progress=False)
    records = records_of(editor.handle, "world", 12, 0)
    facts = [record.fact for record in records]
    longest = max(len(editor.handle.tokens.encode(fact.target)) for fact in facts)
    assert longest > 1
    edit = editor.edit(facts, "grace")
    assert len(edit.holds) == len(facts)
    assert all(found.exact for found in score(editor.handle, [(f.text, f.target) for f in facts]))
    near = [(p, r.target_true) for r in records for p in r.neighborhood_prompts]
    now = score(editor.handle, near)
    editor.revert()
    same = [a == b for a, b in zip(now, score(editor.handle, near), strict=True)]
    assert sum(same) / len(same) > 0.8


@pytest.mark.filterwarnings("ignore")
def test_later_statements_count(editor: Editor) -> None:
    over = SETTINGS["ike"]
    editor.edit(FACTS[0], "ike", **over)
    editor.edit(Fact(FACTS[0].prompt, FACTS[0].subject, "Lisbon"), "ike", **over)
    (rendered,) = editor.handle.rendered([ASKED[0]])
    assert "Lisbon" in rendered.rsplit("New Fact", 1)[1]
    assert editor.handle.rendered(["The capital of Francesca is"]) == [
        "The capital of Francesca is"
    ]


def test_settings_of_others_are_refused(editor: Editor) -> None:
    with pytest.raises(AlphaEditError, match=r"Unknown hyperparameter.*'chunk_words'"):
        editor.edit(FACTS[0], "alphaedit", chunk_words=3)
    with pytest.raises(AlphaEditError, match=r"Unknown hyperparameter.*'ridge'"):
        editor.edit(FACTS[0], "grace", ridge=3.0)


def test_the_border_leaves_neighbors_alone() -> None:
    asked = [phrasings.Phrasing(f"s{i}", f"p{i}", (f"q{i}",), (f"n{i}",)) for i in range(40)]
    place = {text: i for i, text in enumerate(phrasings.texts_of(asked))}
    vectors = torch.zeros(len(place), 1)
    for i in range(40):
        vectors[place[f"q{i}"]] = 1.0 if i < 30 else 9.0
        vectors[place[f"n{i}"]] = 5.0
    found = phrasings.border(asked, vectors, lambda a, b: (a - b).norm(dim=1))
    assert (found.inside, found.outside) == (0.75, 1.0)
    assert 1.0 < found.distance < 5.0


def test_config_errors_name_the_field(editor: Editor) -> None:
    with pytest.raises(ConfigError, match="radius"):
        editor.edit(FACTS[0], "grace", radius=-1.0)


@pytest.mark.filterwarnings("ignore")
def test_requests_of_threads_do_not_see_each_other(editor: Editor) -> None:
    handle = editor.handle
    editor.edit(FACTS, "grace", replace="from_last", **SETTINGS["grace"])
    alone = {prompt: generate(handle, [prompt], 8) for prompt in (*ASKED, *OTHERS)}
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = dict(
                zip(alone, pool.map(lambda p: generate(handle, [p], 8), alone), strict=True)
            )
            assert found == alone


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BY_FACT)
def test_single_facts_are_undone(editor: Editor, name: str, tmp_path: Path) -> None:
    over = {**SETTINGS[name], **({"demonstrations": 0} if name == "ike" else {})}
    before = logits(editor, ASKED)
    editor.track(tmp_path / "ledger")
    editor.edit(FACTS, name, **over)
    after = logits(editor, ASKED)
    (left,) = editor.forget_facts([FACTS[1]])
    assert left.facts == (FACTS[0], FACTS[2])
    now = logits(editor, ASKED)
    assert equal(now, [after[0], before[1], after[2]])
    assert len(Edit.load(left.save(tmp_path / "left")).before) == 2
    editor.ledger = None
    editor.set_edits([])
    editor.load(tmp_path / "ledger")
    assert equal(logits(editor, ASKED), now)
    with pytest.raises(AlphaEditError, match="No edit in force is about"):
        editor.forget_facts([FACTS[1]])
    assert editor.forget_facts([FACTS[0], FACTS[2].text]) == []
    assert equal(logits(editor, ASKED), before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TOGETHER)
def test_single_facts_of_what_is_shared_are_not_undone(editor: Editor, name: str) -> None:
    before = logits(editor, ASKED)
    editor.edit(FACTS, name, **SETTINGS[name])
    after = logits(editor, ASKED)
    with pytest.raises(AlphaEditError, match="one for all facts of its edit together"):
        editor.forget_facts([FACTS[1]])
    assert equal(logits(editor, ASKED), after)
    assert editor.forget_facts(FACTS) == []
    assert equal(logits(editor, ASKED), before)


@pytest.mark.filterwarnings("ignore")
def test_single_facts_of_weights_are_not_undone(editor: Editor) -> None:
    editor.edit(FACTS, "memit", **QUICK)
    with pytest.raises(AlphaEditError, match="changes weights for 3 facts together"):
        editor.forget_facts([FACTS[1]])
    assert len(editor.edits[0].facts) == 3


@pytest.mark.parametrize("name", ["grace", "ike"])
def test_a_router_is_one_short_file(name: str) -> None:
    path = Path(inspect.getfile(type(methods()[name])))
    assert len(path.read_text(encoding="utf-8").splitlines()) < 120


@pytest.mark.filterwarnings("ignore")
def test_shown_by_the_command_line(
    editor: Editor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    editor.edit(FACTS, "grace", **SETTINGS["grace"])
    folder = editor.save(tmp_path / "ledger")
    assert run(["show", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "Hook grace: 3 rows; layer 1, replace last" in said
    assert "Changes of matrices" not in said


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"layers": (0, 1)}, "edits one layer"),
        ({"layers": (99,)}, "Layer 99 is out of range"),
        ({"layers": (-1,)}, "not negative"),
    ],
)
@pytest.mark.parametrize("name", ROUTED)
def test_layers_that_cannot_be(editor: Editor, name: str, over: dict[str, Any], said: str) -> None:
    if name == "gated" and len(over["layers"]) > 1:
        pytest.skip("looks at several, and writes behind the last")
    with pytest.raises(ConfigError, match=said):
        editor.edit(FACTS, name, **over)
    assert editor.edits == []
    assert not editor.handle.hooked


@pytest.mark.filterwarnings("ignore")
def test_none_asks_for_what_is_measured(editor: Editor) -> None:
    edit = editor.edit(FACTS[0], "grace", layers=(1,), radius=None, steps=2)
    assert edit.hyperparameters["radius"] > 0
    note = editor.edit(FACTS[0], "ike", distance=None, scope="distance")
    assert note.hyperparameters["distance"] > 0


def test_facts_to_forget_that_are_none(editor: Editor) -> None:
    with pytest.raises(ConfigError, match="A fact is 3"):
        editor.forget_facts([3])  # type: ignore[list-item]
    with pytest.raises(AlphaEditError, match="No edit in force is about"):
        editor.forget_facts("The capital of France is")


@pytest.mark.filterwarnings("ignore")
def test_hooks_of_two_editors_do_not_act_side_by_side(editor: Editor) -> None:
    before = logits(editor, ASKED)
    other = Editor(editor.handle, editor.statistics, progress=False)
    editor.edit(FACTS[:1], "grace", **SETTINGS["grace"])
    edited = logits(editor, ASKED)
    with pytest.raises(ConfigError, match="Another Editor"):
        other.edit(FACTS[1:2], "grace", **SETTINGS["grace"])
    assert other.edits == []
    assert equal(logits(editor, ASKED), edited)
    editor.revert()
    other.edit(FACTS[1:2], "grace", **SETTINGS["grace"])
    other.revert()
    assert equal(logits(editor, ASKED), before)
