"""Metrics against values worked out by hand, and records that cannot be used."""

import json
import math
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_model

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.bench.intervals import mean, percent
from alphaedit.bench.metrics import (
    generation_metrics,
    ngram_entropy,
    probability_metrics,
    tfidf_cosine,
)
from alphaedit.core.errors import DataError
from alphaedit.model.handle import ModelHandle

RECORD = {
    "case_id": 1,
    "requested_rewrite": {
        "prompt": "The capital of {} is",
        "relation_id": "P36",
        "subject": "France",
        "target_new": {"str": "Madrid"},
        "target_true": {"str": "Paris"},
    },
    "paraphrase_prompts": ["France has the capital", "The seat of France is"],
    "neighborhood_prompts": ["The capital of Spain is"],
    "attribute_prompts": ["The capital of Spain is"],
    "generation_prompts": ["The capital of France is"],
}


def test_entropy_by_hand() -> None:
    # "a b a b": 2-grams ab (2), ba (1); 3-grams aba, bab.
    two = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert ngram_entropy("a b a b") == pytest.approx((2 / 3 * two + 4 / 3 * 1.0) / 2)
    assert ngram_entropy("no no no no no") == 0.0


def test_tfidf_by_hand() -> None:
    assert tfidf_cosine("red green", "red green") == pytest.approx(1.0)
    assert tfidf_cosine("red", "blue") == 0.0
    assert tfidf_cosine("", "blue") == 0.0


def test_wilson_interval_by_hand() -> None:
    rate = percent([True] * 8 + [False] * 2)
    assert rate is not None
    assert (rate.value, rate.n) == (80.0, 10)
    assert rate.low == pytest.approx(49.02, abs=0.01)
    assert rate.high == pytest.approx(94.33, abs=0.01)
    assert percent([]) is None
    assert mean([]) is None


def test_metrics_equal_plain_passes() -> None:
    model, tokenizer = tiny_model("gpt2")
    handle = ModelHandle.load(model, tokenizer)
    record = EditRecord.from_dict(RECORD, "record 0")

    def log_p(prompt: str, target: str) -> float:
        ids, wanted = handle.tokens.encode_continuation(prompt, target)
        with torch.no_grad():
            rows = model(input_ids=torch.tensor([ids + wanted])).logits[0].log_softmax(-1)
        return sum(float(rows[len(ids) - 1 + i, t]) for i, t in enumerate(wanted)) / len(wanted)

    found = probability_metrics(handle, [record])
    new = [log_p(p, "Madrid") > log_p(p, "Paris") for p in record.paraphrase_prompts]
    assert found["efficacy"] is not None
    assert found["generalization"] is not None
    assert found["specificity"] is not None
    rewrite = "The capital of France is"
    assert found["efficacy"].value == 100 * (log_p(rewrite, "Madrid") > log_p(rewrite, "Paris"))
    assert found["generalization"].value == 100 * sum(new) / 2
    near = record.neighborhood_prompts[0]
    assert found["specificity"].value == 100 * (log_p(near, "Paris") > log_p(near, "Madrid"))


def test_what_cannot_be_measured_is_none() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    bare = {"case_id": 2, "requested_rewrite": RECORD["requested_rewrite"]}
    record = EditRecord.from_dict(bare, "record 0")
    found = probability_metrics(handle, [record]) | generation_metrics(handle, [record])
    assert found["generalization"] is None
    assert found["specificity"] is None
    assert found["fluency"] is None
    assert found["consistency"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"requested_rewrite": None}, "requested_rewrite"),
        ({"paraphrase_prompts": "text"}, "paraphrase_prompts"),
        ({"requested_rewrite": {"prompt": "no slot"}}, "prompt"),
        (
            {"requested_rewrite": {**RECORD["requested_rewrite"], "target_new": {"str": " "}}},  # type: ignore[dict-item]
            r"target_new\.str",
        ),
    ],
)
def test_bad_records_name_record_and_field(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "records.json"
    path.write_text(json.dumps([RECORD, {**RECORD, **change}]), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        load(path, "counterfact")
    assert "record 1" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"), [("[]", "no records"), ("{", "not JSON"), ("{}", "list of records")]
)
def test_bad_files(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load(path)
    with pytest.raises(DataError, match="no file"):
        load(tmp_path / "missing.json")
