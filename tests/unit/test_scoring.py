"""Scores equal a plain forward pass for one prompt at a time; generation equals plain greedy."""

import pytest
import torch
from tests.tiny import tiny_model

from alphaedit.core.errors import ModelError
from alphaedit.model.generate import generate, generate_ids
from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import score

PAIRS = [
    ("The capital of France is", "Paris"),
    ("The capital of France is", "Madrid"),
    ("The capital of France is", "a"),
    ("The capital of France is", "Paris"),
    ("Marie Curie was born in", "Warsaw and worked in physics."),
    ("Zoë and São Paulo are", "東京"),
    ("I", "think"),
]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "llama", "qwen2"])
@pytest.mark.parametrize("batch_tokens", [1, 40, 8192])
def test_scores_equal_plain_passes(kind: str, batch_tokens: int) -> None:
    model, tokenizer = tiny_model(kind)
    handle = ModelHandle.load(model, tokenizer)
    for (prompt, target), found in zip(
        PAIRS, score(handle, PAIRS, batch_tokens=batch_tokens), strict=True
    ):
        ids, wanted = handle.tokens.encode_continuation(prompt, target)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids + wanted])).logits[0]
        log_p = logits[len(ids) - 1 : -1].log_softmax(-1)
        expected = log_p[torch.arange(len(wanted)), wanted].mean()
        assert found.mean_logprob == pytest.approx(expected.item(), abs=1e-4)
        assert found.p == pytest.approx(expected.exp().item(), abs=1e-4)
        assert found.exact == (log_p.argmax(-1).tolist() == wanted)
        assert found.tokens == len(wanted)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "llama"])
def test_batched_greedy_equals_one_at_a_time(kind: str) -> None:
    model, tokenizer = tiny_model(kind)
    handle = ModelHandle.load(model, tokenizer)
    rows = [handle.tokens.encode(p) for p, _ in PAIRS]
    for row, new in zip(rows, generate_ids(handle, rows, 6), strict=True):
        ids = list(row)
        for token in new:
            with torch.no_grad():
                best = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            assert token == best
            ids.append(token)


def test_sampling_is_decided_by_its_generator() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))

    def draw(seed: int) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        return generate(handle, ["The", "I think"], 12, top_k=5, generator=generator)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_too_long_a_prompt_is_refused() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    with pytest.raises(ModelError, match="longer than the model reads") as caught:
        score(handle, [("word " * 100, "end")])
    assert caught.value.remedy == "Shorten the prompt."
    # the rest of D: a target of 500,000 tokens, and "Shorten the prompt"
    with pytest.raises(
        ModelError, match=r"prompt of \d tokens and a target of 1,\d+ .*\(128\)"
    ) as caught:
        score(handle, [("The capital of France is", "Paris " * 1000)])
    assert caught.value.remedy == "Shorten the target."
