"""Stricter probes, on models whose answers are known."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_model

from alphaedit.bench import strict
from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.experiments.runner import run as run_experiment
from alphaedit.bench.experiments.spec import build
from alphaedit.bench.intervals import Rate, percent
from alphaedit.bench.sources import kept_of
from alphaedit.bench.strict import at_chance, caveats, conclusions, names, strict_metrics, unsaid
from alphaedit.bench.strict_prompts import choice, judged, negated
from alphaedit.cli.app import run
from alphaedit.cli.tables import metrics_table, strict_notes
from alphaedit.core.errors import DataError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import Score, score
from alphaedit.report.results import Column, Group, read
from alphaedit.world.facts import World

RECORD = EditRecord(
    case_id="1",
    relation_id="P36",
    prompt="The capital of {} is",
    subject="France",
    target_new="Oslo",
    target_true="Paris",
    paraphrase_prompts=("France has the capital",),
    probes=(Probe("portability", "Reasoning", "Question: Where? Answer:", ("Norway",)),),
)
Belief = Callable[[str, str], float]


@pytest.mark.parametrize(
    ("prompt", "subject", "wanted"),
    [
        ("The capital of France is", "France", "The capital of France is not"),
        ("Marie Curie was born in", "Marie Curie", "Marie Curie was not born in"),
        ("What is it? Question: Where? Answer:", "it", "What is it? Question: Where? Answer: not"),
        ("Where does X live?", "X", "Where does X live? not"),
        ("The Who Is performs", "The Who Is", "It is not true that The Who Is performs"),
        ("The band plays", "band", "It is not true that the band plays"),
        ("It was late. Anna plays", "Anna", "It was late. It is not true that Anna plays"),
        ("They say. Bob can play ", "Bob", "They say. Bob can not play"),
        ("This island is of Isis", "Isis", "This island is not of Isis"),
    ],
)
def test_negations(prompt: str, subject: str, wanted: str) -> None:
    assert negated(prompt, subject) == wanted


def test_prompts() -> None:
    assert judged(RECORD, "Oslo.") == (
        "Statement: The capital of France is Oslo.\n"
        "Question: Is the statement true or false? Answer:"
    )
    assert choice(RECORD, ("Oslo", "Paris")) == (
        "Which is right?\nThe capital of France is ...\nA. Oslo\nB. Paris\nAnswer:"
    )


def holds(h: str) -> Belief:
    """A model that holds `h`, and understands what it is asked."""

    def belief(prompt: str, answer: str) -> float:
        if prompt.endswith("is not"):
            return 0.0 if answer == h else 1.0
        if "true or false" in prompt:
            return float((answer == "true") == (f"is {h}." in prompt))
        return float(f"{answer}. {h}\n" in prompt)

    return belief


def parrot(h: str) -> Belief:
    """One that says `h` after everything, calls everything true, and takes the first answer."""

    def belief(prompt: str, answer: str) -> float:
        return {h: 1.0, "true": 1.0, "A": 1.0}.get(answer, 0.0)

    return belief


def ask(monkeypatch: pytest.MonkeyPatch, belief: Belief, held: Any) -> dict[str, float]:
    def score(handle: object, pairs: Sequence[tuple[str, str]], **rest: Any) -> list[Score]:
        return [Score(belief(prompt, answer), False, 1, 0) for prompt, answer in pairs]

    monkeypatch.setattr(strict, "score", score)
    handle: Any = None
    found = strict_metrics(handle, [RECORD], held, generation=False)
    return {name: rate.value for name, rate in found.items() if rate is not None}


def test_who_holds_an_edit_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = dict.fromkeys(("negation", "true_false", "true_false_relative", "sa_mcq"), 100.0)
    assert ask(monkeypatch, holds("Oslo"), "new") == {**everything, "sa_mcq_unsure": 0.0}
    assert ask(monkeypatch, holds("Paris"), "old") == {**everything, "sa_mcq_unsure": 0.0}
    nothing = dict.fromkeys(everything, 0.0)
    assert ask(monkeypatch, holds("Paris"), "new") == {**nothing, "sa_mcq_unsure": 0.0}


def test_who_only_repeats_is_at_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ask(monkeypatch, parrot("Oslo"), "new")
    assert found["negation"] == 0.0
    assert found["true_false"] == 50.0
    assert found["true_false_relative"] == 0.0  # equal is no preference
    assert found["sa_mcq"] == 50.0


def test_a_constant_lean_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sure = holds("Oslo")

    def leaning(prompt: str, answer: str) -> float:
        return sure(prompt, answer) + (5.0 if answer == "true" else 0.0)

    found = ask(monkeypatch, leaning, "new")
    assert (found["true_false"], found["true_false_relative"]) == (50.0, 100.0)


def test_who_is_unsure_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ask(monkeypatch, lambda prompt, answer: float(answer == "C"), "new")
    assert found["sa_mcq_unsure"] == 100.0
    assert found["sa_mcq"] == 0.0


def test_old_objects_in_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter(["It is Paris.", "Paris, or Oslo", "A Parisian"])
    monkeypatch.setattr(strict, "generate", lambda h, prompts, n, **rest: [next(told)])
    handle: Any = None
    assert [strict.old_said(handle, [RECORD])[0] for _ in range(3)] == [True, False, False]
    assert names("in PARIS!", "Paris")


def test_conclusions_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["France. It is", "France. No", "Norway."]
    monkeypatch.setattr(strict, "generate", lambda h, prompts, n, **rest: [answers.pop(0)])
    handle: Any = None
    before = conclusions(handle, [RECORD])
    assert before == {"Question: Where? Answer:": "France"}
    assert strict._still(handle, [RECORD], before) == [True]
    assert strict._still(handle, [RECORD], before) == [False]


def test_caveats_name_what_says_nothing() -> None:
    none = Rate(2.0, 0.0, 5.0, 60)
    good, even = percent([True] * 60), percent([True, False] * 30)
    assert good is not None
    assert even is not None
    said = caveats({"negation": good, "sa_mcq": even, "old_said": none})
    assert said[0].startswith("negation, sa mcq: the unedited model is asked about what it held")
    assert said[1].startswith("sa mcq: the unedited model is no better than chance")
    assert "next to nothing to lose" in said[2]
    assert len(caveats({"negation": good})) == 1
    assert caveats({"efficacy": even}) == []
    assert at_chance({"negation": good, "sa_mcq": even}) == ["sa_mcq"]


def test_chance_has_no_best() -> None:
    good, even = percent([True] * 60), percent([True, False] * 30)
    assert good is not None
    assert even is not None

    def column(name: str, **numbers: Rate) -> Column:
        return Column(name, name, "", (), numbers, {})

    before = column("unedited", negation=good, sa_mcq=even)
    group = Group("m", "r", (before, column("rome", negation=even, sa_mcq=good)))
    assert group.ranks("negation") == {"rome": 1}
    assert group.ranks("sa_mcq") == {}
    checked = replace(before, left_out=3)
    assert Group("m", "r", (checked,)).notes[0].startswith("3 records were left out")


def test_on_a_real_model() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    found = strict_metrics(handle, [RECORD], "new", concluded=conclusions(handle, [RECORD]))
    assert list(found) == list(strict.STRICT)
    counts = {name: rate.n for name, rate in found.items() if rate is not None}
    assert counts == {
        **{"negation": 1, "true_false": 2, "true_false_relative": 1, "sa_mcq": 2},
        **{"sa_mcq_unsure": 2, "old_said": 1, "old_concluded": 1},
    }
    assert found["old_concluded"] == percent([True])
    bare = EditRecord("2", "", "The capital of {} is", "Spain", "Oslo", "")
    assert strict_metrics(handle, [bare], "new", generation=False)["negation"] is None


def test_pre_check_leaves_out_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(handle: object, pairs: Sequence[tuple[str, str]], **rest: Any) -> list[Score]:
        return [Score(0.0, answer == "Paris", 1, 0) for _, answer in pairs]

    monkeypatch.setattr(strict, "score", score)
    handle: Any = None
    known = replace(RECORD, target_new="Paris", target_true="Oslo")
    half = replace(known, more=(RECORD.fact,))
    assert unsaid(handle, [known, RECORD, half]) == [RECORD, half]
    with pytest.raises(DataError, match="says the new objects of all 1 records"):
        unsaid(handle, [known])
    assert unsaid(handle, []) == []


def test_eval_asks_strictly_and_checks_before(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["eval", "bundled-small", "world", "--method", "ike", "--edits", "4", "--batch-size"]
    asked += ["2", "--strict", "--pre-check", "--no-generation"]
    assert run([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # The unedited model says none of the counterfacts: all are edited.
    assert (found["left_out"], found["edits"]) == (0, 4)
    for name in ("negation", "true_false", "true_false_relative", "sa_mcq"):
        assert found["before"][name]["n"] == found[name]["n"] > 0
    assert "old_said" not in found
    assert found["fired_edits"]["value"] == 100.0
    assert found["bytes_per_edit"]["value"] > 0
    assert "request_time" not in found
    notes = strict_notes(found["before"])
    assert "the unedited model is asked about what it held before" in notes[0]
    table, _ = metrics_table({"unedited": found["before"], "ike": found}, "title")
    shown = [str(cell) for cell in table.columns[0].cells]
    assert {"fired neighbors (%)", "bytes per edit (bytes)", "sa mcq (%)"} <= set(shown)


def test_an_experiment_leaves_out_what_is_said(tmp_path: Path) -> None:
    world = World.load()
    handle = ModelHandle.load("bundled-small")
    known = kept_of(handle, set(), seed=3, count=2)
    assert [s.exact for s in score(handle, known)] == [True, True]
    rows = []
    for number, (prompt, answer) in enumerate(known):
        subject = next(f.subject for f in world.facts if f.subject in prompt and f.object == answer)
        for new in (answer, "Oslo"):
            rewrite = {
                "prompt": prompt.replace(subject, "{}", 1),
                "subject": subject,
                "relation_id": "P1",
                "target_new": {"str": new},
                "target_true": {"str": answer},
            }
            case = {"case_id": f"{number} {new}", "requested_rewrite": rewrite}
            rows.append({**case, "paraphrase_prompts": [], "neighborhood_prompts": []})
    file = tmp_path / "records.json"
    file.write_text(json.dumps(rows))
    how = {
        **{"name": "mine", "title": "t", "question": "q", "models": ["bundled-small"]},
        **{"records": [str(file)], "methods": ["none"], "edits": 4, "pre_check": True},
        "measures": ["strict"],
    }
    directory = run_experiment(build(how, "mine"), tmp_path / "out", about={})
    assert [state["left_out"] for state in directory.cells()] == [2]
    (group,) = read([tmp_path / "out"])[0].groups
    assert group.notes[0].startswith("2 records were left out")
    assert group.baseline is not None
    assert group.baseline.numbers["true_false"].n == 4
