"""Long targets: chunks, windows that are nested in one another, and an end of text."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import tiny_model
from torch.nn import functional as F

from alphaedit import Editor, Fact
from alphaedit.core.errors import AlphaEditError
from alphaedit.methods.registry import get_method, methods
from alphaedit.methods.steps.chunks import chunks_of
from alphaedit.methods.steps.parts import Part, targets_of
from alphaedit.methods.steps.rows import add_losses, groups_of, rows_of
from alphaedit.methods.steps.surprise import at_peaks, word_surprise, words_of
from alphaedit.model.generate import generate_ids
from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import score

LONG = Fact("The river of {} is", "France", "the city in the north and the sea is at the end of it")


@pytest.fixture(scope="module")
def handle() -> ModelHandle:
    return ModelHandle.load(*tiny_model("llama"))


def test_chunks_make_up_the_target() -> None:
    parts = chunks_of(LONG, [4, 3, 7], nested=False)
    assert " ".join(part.target for part in parts) == LONG.target
    for part, other in pairwise(parts):
        assert other.text == f"{part.text} {part.target}"
    assert [part.last for part in parts if isinstance(part, Part)] == [False, False, True]


@given(st.text(alphabet="ab \n\t", min_size=1).filter(str.strip))
def test_words_are_not_blank_and_make_up_the_text(text: str) -> None:
    words = words_of(text)
    assert " ".join(words) == text
    assert all(word.strip() for word in words)


def test_code_is_a_long_target_too() -> None:
    code = "def f(x):\n        return x\n\n    # the  end"
    lengths = [1] * len(words_of(code))
    for nested in (False, True):
        parts = chunks_of(Fact("{} is", "This", code), lengths, nested=nested)
        assert len(parts) == len(lengths)
        assert all(part.target.strip() for part in parts)


def test_windows_are_nested() -> None:
    parts = chunks_of(LONG, [4, 3, 7], nested=True)
    words = LONG.target.split()
    for part, start in zip(parts, (0, 4, 7), strict=True):
        assert isinstance(part, Part)
        assert part.target == " ".join(words[start:])
        assert part.last
    first, _, last = parts
    assert isinstance(first, Part)
    assert isinstance(last, Part)
    assert first.weights == pytest.approx((1, 2 / 3, 1 / 3))
    assert last.weights == (1.0,)
    assert LONG.target[: first.windows[0]] == "the city in the"


def test_weights_are_those_of_the_windows_tokens(handle: ModelHandle) -> None:
    first = chunks_of(LONG, [4, 3, 7], nested=True)[0]
    _, ids, weights = targets_of(handle, first, first.text, end_of_text=False)
    counts = [
        len(handle.tokens.encode_continuation(first.text, LONG.target[:end])[1])
        for end in (15, 29, len(LONG.target))
    ]
    expected = [1.0] * counts[0]
    expected += [2 / 3] * (counts[1] - counts[0]) + [1 / 3] * (counts[2] - counts[1])
    assert weights == pytest.approx(expected)
    assert len(ids) == len(weights)


@pytest.mark.parametrize("end_of_text", [False, True])
def test_the_loss_is_the_weighted_mean_over_a_plain_pass(
    handle: ModelHandle, end_of_text: bool
) -> None:
    first = chunks_of(LONG, [4, 3, 7], nested=True)[0]
    prompt, ids, weights = targets_of(handle, first, first.text, end_of_text=end_of_text)
    rows = rows_of(handle, 0, first, (), end_of_text=end_of_text)
    groups = groups_of(handle, rows, 1, check=True)
    zero = torch.zeros(1, handle.d_out(1))
    found = add_losses(groups, torch.zeros(1), zero, 0.0)
    whole = torch.tensor([[*prompt, *ids[:-1]]])
    logits = handle.forward(whole, torch.ones_like(whole))[0, len(prompt) - 1 :]
    nll = F.cross_entropy(logits.float(), torch.tensor(ids), reduction="none")
    assert float(found) == pytest.approx(float((nll * torch.tensor(weights)).mean()), rel=1e-4)
    assert (ids[-1] == handle.tokenizer.eos_token_id) is end_of_text


def test_surprise_of_words_adds_up_to_that_of_the_target(handle: ModelHandle) -> None:
    words = word_surprise(handle, LONG)
    assert len(words) == len(LONG.target.split())
    (scored,) = score(handle, [(LONG.text, LONG.target)])
    assert sum(words) == pytest.approx(-scored.mean_logprob * scored.tokens, rel=1e-4)


def test_chunks_begin_at_peaks() -> None:
    surprise = [1.0] * 40
    for at in (6, 13, 22, 31):
        surprise[at] = 9.0
    lengths = at_peaks(surprise, 8)
    begins = [sum(lengths[:i]) for i in range(1, len(lengths))]
    assert sum(lengths) == 40
    assert all(4 <= n <= 16 for n in lengths)
    assert all(surprise[at] == 9.0 for at in begins)
    for count in range(1, 60):
        lengths = at_peaks([float(i * 7 % 11) for i in range(count)], 8)
        assert sum(lengths) == count
        assert all(4 <= n <= 16 for n in lengths) or count < 4


@pytest.mark.parametrize("name", ["anyedit", "anyedit-plus", "muke"])
def test_a_long_target_is_written(name: str) -> None:
    editor = Editor.from_pretrained("bundled-small", progress=False)
    words = "Italian French German Spanish Polish Dutch Latin English Russian Greek Danish Hebrew"
    fact = Fact("The mother tongue of {} is", "Danielle Darrieux", words)
    (before,) = score(editor.handle, [(fact.text, words)])
    edit = editor.edit(fact, name, chunk_words=3)
    (after,) = score(editor.handle, [(fact.text, words)])
    assert next(iter(edit.patch.weights.values())).rank > 1
    assert after.mean_logprob > before.mean_logprob + 3


@pytest.mark.parametrize("name", ["alphaedit", "rome", "ft", "ultraedit", "muke"])
def test_an_answer_ends_where_the_target_does(name: str) -> None:
    """The bundled model never ends there by itself, and only fine-tuning can make it."""
    editor = Editor.from_pretrained("bundled-small", progress=False)
    end = editor.tokenizer.eos_token_id
    fact = Fact("The mother tongue of {} is", "Victor Hugo", "Italian")
    ids = editor.handle.tokens.encode(fact.text)
    target = editor.handle.tokens.encode_continuation(fact.text, "Italian")[1]
    row = torch.tensor([[*ids, *target]])

    def p_end() -> float:
        return float(editor.handle.forward(row, torch.ones_like(row))[0, -1].softmax(-1)[end])

    over = {"learning_rate": 0.003} if name == "ft" else {}
    with editor.preview(fact, name, **over):
        without = p_end()
    editor.edit(fact, name, end_of_text=True, **over)
    assert p_end() > (1.2 if name == "ultraedit" else 2) * without
    if name == "ft":
        assert p_end() > 0.5
        assert generate_ids(editor.handle, [ids], 12) == [target]


def test_a_tokenizer_without_an_end_of_text_is_refused() -> None:
    model, tokenizer = tiny_model("llama")
    tokenizer.eos_token = None
    editor = Editor.from_pretrained(model, tokenizer, progress=False, tokens=400)
    with pytest.raises(AlphaEditError, match="no end-of-text token"):
        editor.edit(LONG, "ft", layers=(1,), end_of_text=True)


def test_every_method_that_reads_targets_has_the_setting() -> None:
    for name, method in methods().items():
        wants = method.needs.layers != "none"
        assert ("end_of_text" in method.config.model_fields) is wants, name
    assert get_method("muke").defaults == {"nested": True}
