"""Metrics of questions: hand-computed, and against one prompt at a time."""

from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_model

from alphaedit import Editor
from alphaedit.bench import qa
from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.datasets.registry import load
from alphaedit.bench.intervals import Rate
from alphaedit.bench.metrics import Metrics, probability_metrics
from alphaedit.bench.qa import (
    asked_directly,
    asked_to_think,
    chain_answer,
    long_metrics,
    matches,
    qa_metrics,
    rouge_l,
    story_metrics,
    token_recall,
    unedited_answers,
)
from alphaedit.bench.run import metrics_for, sequential
from alphaedit.bench.sources import world_records
from alphaedit.core.fact import Fact
from alphaedit.model.handle import ModelHandle

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def value(metrics: Metrics, name: str) -> float:
    rate = metrics[name]
    assert isinstance(rate, Rate)
    return rate.value


@pytest.mark.parametrize(
    ("text", "answers", "right"),
    [
        (" Oslo. The", ["Oslo"], True),
        (" oslo, in Norway", ["Paris", "Oslo"], True),
        (' "Oslo" it is', ["Oslo"], True),
        (" Oslofjord", ["Oslo"], False),
        (" In Oslo", ["Oslo"], False),
        ("Oslo", ["Oslo."], True),
        ("", ["Oslo"], False),
    ],
)
def test_matches(text: str, answers: list[str], right: bool) -> None:
    assert matches(text, answers) is right


def test_rouge_and_recall_by_hand() -> None:
    # Common subsequence "the cat mat" of 3 words; 5 and 4 words: 2 * 3 / 9.
    assert rouge_l("The cat on a mat", "the cat sat mat") == pytest.approx(2 / 3)
    assert rouge_l("a b c", "a b c") == 1.0
    assert rouge_l("", "a") == rouge_l("a", "") == 0.0
    assert token_recall("the cat sat", "the dog sat sat") == pytest.approx(2 / 3)
    assert token_recall("x", "") == 0.0


def test_chains_of_thought() -> None:
    text = " The a is B. The c of B is D. Answer: D. Question: more? Answer: E"
    assert chain_answer(text).strip() == "D."
    assert asked_directly("Who?") == "Question: Who? Answer:"
    assert asked_directly("Question: Who?") == "Question: Who? Answer:"
    assert asked_to_think("Question: Who?") == "Question: Who?"
    assert asked_to_think("Who?").endswith("Question: Who?")
    assert asked_to_think("Who?").count("Answer:") == 3


RECORDS = [
    EditRecord(
        "0",
        "",
        "The capital of {} is",
        "France",
        "Oslo",
        "Paris",
        paraphrase_prompts=("France is ruled from",),
        probes=(
            Probe("portability", "Reasoning", "The language of its capital is", ("Danish", "a")),
            Probe("portability", "Aliasing", "Frankreich has", ("Oslo",)),
            Probe("locality", "unrelated", "Marie Curie was born in", ("Warsaw",)),
        ),
        schema="knowedit",
    ),
    EditRecord(
        "1", "", "{} was born in", "Marie Curie", "the city of Berlin", "", schema="knowedit"
    ),
]


def plain_accuracy(handle: ModelHandle, prompt: str, answer: str) -> float:
    ids, target = handle.tokens.encode_continuation(prompt, answer)
    with torch.no_grad():
        logits = handle.model(input_ids=torch.tensor([[*ids, *target]])).logits[0]
    said = logits[len(ids) - 1 : -1].argmax(-1).tolist()
    return 100 * sum(a == b for a, b in zip(said, target, strict=True)) / len(target)


def test_token_accuracy_against_one_prompt_at_a_time() -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    found = qa_metrics(handle, RECORDS, unedited_answers(handle, RECORDS))
    one = plain_accuracy(handle, "The capital of France is", "Oslo")
    two = plain_accuracy(handle, "Marie Curie was born in", "the city of Berlin")
    assert value(found, "edit_success") == pytest.approx((one + two) / 2)
    assert value(found, "generalization") == plain_accuracy(handle, "France is ruled from", "Oslo")
    reasoning = max(
        plain_accuracy(handle, "The language of its capital is", a) for a in ("Danish", "a")
    )
    assert value(found, "portability:Reasoning") == reasoning
    assert value(found, "locality") == 100.0
    handle.set_weight(3, handle.weight(3) * -3)
    changed = qa_metrics(handle, RECORDS, unedited_answers(handle, RECORDS), generation=False)
    assert "edit_success_generate" not in changed


def test_locality_is_against_the_unedited_model() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    before = unedited_answers(handle, RECORDS)
    assert value(qa_metrics(handle, RECORDS, before), "locality") == 100.0
    for layer in range(handle.n_layers):
        handle.set_weight(layer, handle.weight(layer) * -3)
    assert value(qa_metrics(handle, RECORDS, before), "locality") == 0.0


@pytest.mark.parametrize(
    "name", ["zsre/zsre_mend_eval_500.json", "counterfact/counterfact_250.json"]
)
def test_real_records_against_plain_passes(name: str) -> None:
    if not (DATA / name).is_file():
        pytest.skip("the real data sets are not beside the project (../shared/data)")
    handle = ModelHandle.load("bundled-small")
    records = list(load(DATA / name, limit=12).records)
    if name.startswith("zsre"):
        found = qa_metrics(handle, records, generation=False)
        plain = [plain_accuracy(handle, r.rewrite, r.target_new) for r in records]
        assert value(found, "edit_success") == pytest.approx(sum(plain) / len(plain))
        others = [plain_accuracy(handle, r.paraphrase_prompts[0], r.target_new) for r in records]
        assert value(found, "generalization") == pytest.approx(sum(others) / len(others))
        return

    def likelier(prompt: str, one: str, other: str) -> bool:
        means = []
        for answer in (one, other):
            ids, target = handle.tokens.encode_continuation(prompt, answer)
            with torch.no_grad():
                logits = handle.model(input_ids=torch.tensor([[*ids, *target]])).logits[0]
            log_p = logits[len(ids) - 1 : -1].log_softmax(-1)
            means.append(float(log_p.gather(1, torch.tensor(target)[:, None]).mean()))
        return means[0] > means[1]

    found = probability_metrics(handle, records)
    for metric, pairs in {
        "efficacy": [(r.rewrite, r.target_new, r.target_true) for r in records],
        "generalization": [
            (p, r.target_new, r.target_true) for r in records for p in r.paraphrase_prompts
        ],
        "specificity": [
            (p, r.target_true, r.target_new) for r in records for p in r.neighborhood_prompts
        ],
    }.items():
        hits = [likelier(*pair) for pair in pairs]
        assert value(found, metric) == pytest.approx(100 * sum(hits) / len(hits))


def test_two_hops_follow_from_an_edit() -> None:
    editor = Editor.from_pretrained("bundled-small", tokens=20_000)
    records = world_records(editor.handle, 10, 0, "mquake")
    run = sequential(editor, records, "alphaedit", batch_size=10, edits=10)
    before, after = run.before, run.metrics
    assert value(after, "edit_wise") >= 80
    assert value(after, "multi_hop_chain") >= value(before, "multi_hop_chain") + 30
    assert value(after, "instance_wise") >= 60
    assert len(editor.edits[0].facts) == sum(len(r.facts) for r in records)


def test_long_answers() -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    records = [
        EditRecord("0", "", "{}?", "Who", "A long answer of words.", "", schema="longform"),
    ]
    found = metrics_for(handle, records)
    assert value(found, "rouge_l_rewrite") == value(
        long_metrics(handle, records), "rouge_l_rewrite"
    )
    assert "edit_success" in found
    assert "rouge_l_rewrite" not in metrics_for(handle, records, generation=False)


def test_long_texts_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    probes = tuple(
        Probe("long", name, prompt, ("Oslo",))
        for name, prompt in (("subject", "Of France:"), ("subject", "Well,"), ("related", "So,"))
    )
    record = EditRecord(
        "0", "", "The capital of {} is", "France", "Oslo", "Paris", probes=probes, schema="leme"
    )
    said = [" its capital is Oslo.", " Paris, or Oslo, who knows", " nothing"]
    monkeypatch.setattr(qa, "generate", lambda *args, **options: said)
    found = story_metrics(handle, [record])
    assert value(found, "topicality") == 50
    assert value(found, "factual_consistency") == 50
    assert value(found, "internal_consistency") == 50
    assert story_metrics(handle, RECORDS) == {}


def test_all_facts_of_a_case_are_edited() -> None:
    more = (Fact("{} was born in", "Marie Curie", "Berlin"),)
    record = EditRecord("0", "", "The capital of {} is", "France", "Oslo", "", more=more)
    assert [f.subject for f in record.facts] == ["France", "Marie Curie"]
