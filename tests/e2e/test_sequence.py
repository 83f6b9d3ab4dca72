"""Edits in sequence on the bundled model: exact undo, save and load, 10 + 10 = 20."""

from pathlib import Path

import pytest
import torch

from alphaedit import Editor, Fact
from alphaedit.core.errors import EditFileError, FingerprintError
from alphaedit.world.facts import World
from alphaedit.world.records import records

METHODS = ["alphaedit", "memit", "memit-history", "rome"]


def some_facts(count: int, seed: int = 0) -> list[Fact]:
    rows = [r["requested_rewrite"] for r in records(World.load(), count, seed=seed)]
    return [
        Fact(r["prompt"], r["subject"], r["target_new"]["str"], r["target_true"]["str"])
        for r in rows
    ]


def bundled(name: str = "bundled") -> Editor:
    """An editor with a small token budget: the second moments take seconds."""
    return Editor.from_pretrained(name, tokens=12_000)


def weights(editor: Editor) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in editor.handle.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow  # as in test_methods.py, in the process where others edit the same model
@pytest.mark.parametrize("method", METHODS)
def test_edit_holds_and_revert_is_exact(method: str) -> None:
    editor = bundled()
    clean = weights(editor)
    facts = some_facts(4)
    edit = editor.edit(facts, method)
    told = sum(a.p_target > (a.p_truth or 0) for a in edit.after)
    assert told >= 3
    assert sum(a.p_target > (a.p_truth or 0) for a in edit.before) == 0
    changed = {n for n, w in weights(editor).items() if not torch.equal(w, clean[n])}
    assert changed == set(edit.patch.weights)
    editor.revert()
    assert same(weights(editor), clean)


@pytest.mark.parametrize(
    "method", ["alphaedit", pytest.param("memit-history", marks=pytest.mark.slow)]
)
def test_save_load_and_go_on_equals_one_run(method: str, tmp_path: Path) -> None:
    facts = some_facts(20)
    whole = bundled()
    whole.edit(facts[:10], method)
    whole.edit(facts[10:], method)

    first = bundled()
    first.edit(facts[:10], method)
    first.save(tmp_path / "session")
    second = bundled()
    second.load(tmp_path / "session")
    second.edit(facts[10:], method)

    assert same(weights(whole), weights(second))
    assert [e.id for e in whole.edits] == [e.id for e in second.edits]


def test_session_of_another_model_is_refused(tmp_path: Path) -> None:
    editor = bundled("bundled-small")
    editor.edit(some_facts(1)[:1], "memit")
    editor.save(tmp_path / "s")
    other = bundled()
    clean = weights(other)
    with pytest.raises(FingerprintError, match="fingerprint"):
        other.load(tmp_path / "s")
    assert same(weights(other), clean)


def test_checkpoint_loads_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    editor = bundled()
    fact = some_facts(1)[0]
    editor.edit(fact)
    editor.save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer(fact.text, return_tensors="pt")["input_ids"]
    out = model.generate(ids, max_new_tokens=3, do_sample=False)
    assert tokenizer.decode(out[0, ids.shape[1] :]).strip().startswith(fact.target)


def test_nothing_to_revert() -> None:
    with pytest.raises(EditFileError, match="no edit"):
        bundled("bundled-small").revert()


def test_bundled_model_knows_its_facts_on_held_out_phrasings() -> None:
    """A sample of the full examination in benchmarks/results/bundled.json."""
    import random

    from alphaedit.world import phrasing
    from alphaedit.world.exam import exact

    editor, world, rng = bundled(), World.load(), random.Random(3)
    probes = []
    for fact in rng.sample(world.facts, 400):
        template = rng.choice(phrasing.held_phrasings(world.relations[fact.relation]))
        probes.append((template.format(fact.subject), fact.object))
    assert sum(exact(editor.handle, probes)) / len(probes) >= 0.97


def test_tracing_shows_the_early_site() -> None:
    from alphaedit.locate.trace import trace

    editor, world = bundled(), World.load()
    prompts = {k: f"The {r.nouns[0]} of {{}} is" for k, r in world.relations.items()}
    facts = [Fact(prompts[f.relation], f.subject, f.object) for f in world.facts[:12]]
    effect = trace(editor.handle, facts, samples=4).indirect_effect
    subject_last, last = effect[2], effect[4]
    assert subject_last[:4].mean() > 0.5
    assert last[:4].max() < 0.2
    assert last[-1] > 0.5
    assert subject_last[-1] < 0.1


def test_known_counterfact_records_are_edited_and_evaluated() -> None:
    """Real CounterFact records whose facts the bundled model knows."""
    from alphaedit.bench.datasets.registry import load
    from alphaedit.bench.metrics import probability_metrics
    from alphaedit.model.scoring import score

    path = Path(__file__).parents[2].parent / "shared/data/counterfact/counterfact_250.json"
    if not path.is_file():
        path = Path(__file__).parents[2] / "shared/data/counterfact/counterfact_250.json"
    if not path.is_file():
        pytest.skip("the real CounterFact sample is not beside the project (../shared/data)")
    editor = bundled()
    every = load(path).records
    known = score(editor.handle, [(r.rewrite, r.target_true) for r in every])
    chosen = [r for r, s in zip(every, known, strict=True) if s.exact][:20]
    assert len(chosen) == 20
    before = probability_metrics(editor.handle, chosen)
    editor.edit([r.fact for r in chosen])
    after = probability_metrics(editor.handle, chosen)
    assert before["efficacy"] is not None
    assert after["efficacy"] is not None
    assert before["efficacy"].value <= 10
    assert after["efficacy"].value >= 90
