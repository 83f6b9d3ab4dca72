"""How alike long answers are to what they should be."""

from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_model

from alphaedit.bench.data import EditRecord
from alphaedit.bench.qa import long_metrics
from alphaedit.bench.run import metrics_for
from alphaedit.bench.similarity import TextEncoder, bleu, has_bleu
from alphaedit.core.errors import ModelError
from alphaedit.model.handle import ModelHandle

TEXTS = ["The capital of France is Paris.", "Oslo", "Marie Curie was born in Warsaw and worked."]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = tmp_path_factory.mktemp("encoder")
    for part in tiny_model("gpt2"):
        part.save_pretrained(folder)
    return TextEncoder.load(folder)


def test_cosines_of_mean_states(encoder: TextEncoder) -> None:
    vectors = encoder.embed(TEXTS)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3))
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = torch.tensor([encoder.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            mean = encoder.model(input_ids=ids).last_hidden_state[0].mean(0)
        assert torch.allclose(vector, mean / mean.norm(), atol=1e-5)
    assert encoder.alike(TEXTS, TEXTS) == pytest.approx([1.0] * 3, abs=1e-5)
    one, other = encoder.alike([TEXTS[0]], [TEXTS[1]]), encoder.alike([TEXTS[1]], [TEXTS[0]])
    assert one == pytest.approx(other)
    assert one[0] < 0.999


def test_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        TextEncoder.load(tmp_path)


def test_long_answers_are_compared(encoder: TextEncoder) -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    records = [
        EditRecord("0", "", "{}?", "Who", "A long answer of words.", "", ("Who is it?",)),
    ]
    without = long_metrics(handle, records)
    assert ("bleu_rewrite" in without) == has_bleu()
    assert "similarity_rewrite" not in without
    found = long_metrics(handle, records, encoder=encoder)
    assert {"similarity_rewrite", "similarity_paraphrase"} == found.keys() - without.keys()
    longform = [
        EditRecord("0", "", "{}?", "Who", "A long answer of words.", "", schema="longform"),
    ]
    assert "similarity_rewrite" in metrics_for(handle, longform, encoder=encoder)


@pytest.mark.skipif(not has_bleu(), reason="sacrebleu is not installed")
def test_bleu() -> None:
    text = "the cat sat on the mat today"
    assert bleu(text, text) == pytest.approx(1.0)
    assert bleu("", text) == 0.0
    # 1 to 4 words in a row: 6 of 7, 4 of 6, 2 of 5, 1 of 4 of them are in the reference.
    shares = (6 / 7) * (4 / 6) * (2 / 5) * (1 / 4)
    assert bleu("the cat sat on a mat today", text) == pytest.approx(shares**0.25, rel=1e-6)
    assert 0 < bleu("a dog", text) < 0.05 or bleu("a dog", text) == 0.0
