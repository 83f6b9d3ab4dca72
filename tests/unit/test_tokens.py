"""Subjects and targets are found in any tokenizer."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import SENTENCES, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from alphaedit.core.errors import FactError, ModelError, SubjectError
from alphaedit.model.tokens import Tokens

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
REAL = ("tokenizers/gpt2", "tokenizers/llama", "models/TinyStories-656K", "models/stories260K")

# Text, subject; the subject at the start, in the middle, at the end, one letter, many bytes.
PLACES = [
    ("Marie Curie was born in", "Marie Curie"),
    ("The capital of France is", "France"),
    ("The mother tongue of Danielle Darrieux is", "Danielle Darrieux"),
    ("Paris is the capital of France", "France"),
    ("In the field of X he", "X"),
    ("The Eiffel Tower's city is", "Eiffel Tower"),
    ("A friend of 'Tom', who is", "Tom"),
    ("France", "France"),
]
MULTIBYTE = [
    ("Zoë was born in", "Zoë"),
    ("The city of São Paulo is in", "São Paulo"),
    ("東京 is the capital of", "東京"),
    ("He lives in Москва now", "Москва"),
    ("The sign 🙂 means", "🙂"),
    ("It is Zoe\u0308 who", "Zoe\u0308"),
]


def sentencepiece_like(*, across_words: bool, bos: bool = False) -> PreTrainedTokenizerFast:
    """Metaspace BPE with a space put in front of any text, as SentencePiece does.

    With `across_words`, pieces span words and end in spaces.
    """
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    if not across_words:
        core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    first = ["<unk>", "<s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=first, show_progress=False)
    core.train_from_iterator([*SENTENCES, *(text for text, _ in PLACES)], trainer)
    # The bytes are ordinary tokens; the trainer can only add them as special ones.
    saved = json.loads(core.to_str())
    saved["added_tokens"] = saved["added_tokens"][:2]
    core = Tokenizer.from_str(json.dumps(saved))
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>")


TOKENIZERS: dict[str, PreTrainedTokenizerFast] = {
    "plain": tiny_tokenizer(),
    "bos": tiny_tokenizer(bos=True),
    "prefix_space": tiny_tokenizer(bos=True, add_prefix_space=True),
    "trimmed": tiny_tokenizer(trim_offsets=True),
    "untrimmed": tiny_tokenizer(trim_offsets=False, bos=True),
    "metaspace": sentencepiece_like(across_words=False),
    "across_words": sentencepiece_like(across_words=True),
}


def real(name: str) -> Tokens:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not here")
    return Tokens(AutoTokenizer.from_pretrained(DATA / name, local_files_only=True))


def check_subject(tokens: Tokens, text: str, subject: str, prefix: str = "") -> None:
    """The ids up to the subject's last token, and no fewer, read as text that holds the subject."""
    start = text.index(subject)
    found = tokens.encode_with_subject(text, (start, start + len(subject)), prefix)
    assert found.ids == tokens.encode(prefix + text)
    assert found.prompt_len == len(found.ids)
    assert 0 <= found.subject_first <= found.subject_last < len(found.ids)
    upto = prefix + text[: start + len(subject)]
    read = tokens.decode(found.ids[: found.subject_last + 1]).strip()
    shorter = tokens.decode(found.ids[: found.subject_last]).strip()
    assert read.startswith(upto.strip())
    assert not shorter.startswith(upto.strip())
    before = tokens.decode(found.ids[: found.subject_first]).strip()
    assert (prefix + text[:start]).strip().startswith(before)
    through = tokens.decode(found.ids[: found.subject_first + 1]).rstrip("\ufffd").strip()
    assert len(through) > len((prefix + text[:start]).strip()) or through == before


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(("text", "subject"), PLACES + MULTIBYTE)
@pytest.mark.parametrize("prefix", ["", "Therefore I think. "])
def test_subject(name: str, text: str, subject: str, prefix: str) -> None:
    check_subject(Tokens(TOKENIZERS[name]), text, subject, prefix)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(("text", "subject"), PLACES)
def test_subject_real(name: str, text: str, subject: str) -> None:
    check_subject(real(name), text, subject)


@pytest.mark.parametrize("name", ["tokenizers/gpt2", "tokenizers/llama", "models/stories260K"])
@pytest.mark.parametrize(("text", "subject"), MULTIBYTE)
def test_subject_real_multibyte(name: str, text: str, subject: str) -> None:
    check_subject(real(name), text, subject)


@pytest.mark.parametrize(
    ("name", "expected"), [("tokenizers/gpt2", "ux"), ("tokenizers/llama", "ux")]
)
def test_last_token_by_hand(name: str, expected: str) -> None:
    tokens, text = real(name), "The mother tongue of Danielle Darrieux is"
    found = tokens.encode_with_subject(text, (21, 38))
    assert tokens.decode([found.ids[found.subject_last]]) == expected
    assert tokens.decode([found.ids[found.subject_first]]).strip().startswith("Dan")
    assert tokens.decode(found.ids[found.subject_last + 1 :]).strip() == "is"


def test_offsets_with_and_without_the_leading_space() -> None:
    text, span = "The capital of France is", (15, 21)
    found = [Tokens(TOKENIZERS[n]).encode_with_subject(text, span) for n in ("trimmed", "plain")]
    assert found[0].ids == found[1].ids
    assert found[0].subject_last == found[1].subject_last
    assert found[0].subject_first == found[1].subject_first


def test_bos_shifts_by_one() -> None:
    text, span = "The capital of France is", (15, 21)
    without, with_bos = (
        Tokens(TOKENIZERS[n]).encode_with_subject(text, span) for n in ("plain", "bos")
    )
    assert with_bos.ids == [0, *without.ids]
    assert with_bos.subject_last == without.subject_last + 1


def test_a_subject_that_ends_in_spaces() -> None:
    tokens = Tokens(TOKENIZERS["plain"])
    text = "The capital of France is"
    wide, exact = (tokens.encode_with_subject(text, (a, b)) for a, b in ((14, 22), (15, 21)))
    assert (wide.subject_first, wide.subject_last) == (exact.subject_first, exact.subject_last)


def test_a_piece_that_spans_words() -> None:
    tokens = Tokens(TOKENIZERS["across_words"])
    text = "The capital of France is"
    start = text.index("capital")
    found = tokens.encode_with_subject(text, (start, start + 7))
    piece = TOKENIZERS["across_words"].convert_ids_to_tokens(found.ids[found.subject_last])
    assert "▁of▁" in piece  # otherwise this tokenizer tests nothing


@pytest.mark.parametrize("text", ["Zoë Smith lives in", "The sign 🙂 of Zoë means"])
def test_dropped_characters_are_an_error_not_a_wrong_place(text: str) -> None:
    tokens = real("models/TinyStories-656K")
    subject = "Smith" if "Smith" in text else "Zoë"
    start = text.index(subject)
    with pytest.raises(SubjectError, match=subject):
        tokens.encode_with_subject(text, (start, start + len(subject)))


def test_an_empty_subject() -> None:
    with pytest.raises(SubjectError, match="no token"):
        Tokens(TOKENIZERS["plain"]).encode_with_subject("of  a", (2, 4))


TARGETS = [("The capital of France is", "Paris"), ("He was born in", "São Paulo"), ("A", "b")]


@pytest.mark.parametrize("name", [*TOKENIZERS, *REAL])
@pytest.mark.parametrize(("prompt", "target"), TARGETS)
def test_continuation(name: str, prompt: str, target: str) -> None:
    tokens = real(name) if "/" in name else Tokens(TOKENIZERS[name])
    if name == "models/TinyStories-656K" and not target.isascii():
        with pytest.raises(FactError, match="does not know"):
            tokens.encode_continuation(prompt, target)
        return
    prompt_ids, target_ids = tokens.encode_continuation(prompt, target)
    assert prompt_ids == tokens.encode(prompt)
    assert target_ids
    assert tokens.decode(prompt_ids + target_ids).strip() == f"{prompt} {target}"


def test_continuation_extends_the_prompt_where_it_can() -> None:
    tokens = Tokens(TOKENIZERS["bos"])
    prompt_ids, target_ids = tokens.encode_continuation("The capital of France is", "Paris")
    assert prompt_ids + target_ids == tokens.encode("The capital of France is Paris")


def test_continuation_after_a_space() -> None:
    tokens = Tokens(TOKENIZERS["plain"])
    prompt_ids, target_ids = tokens.encode_continuation("It is in ", "Paris")
    assert tokens.decode(prompt_ids + target_ids) == "It is in Paris"


@pytest.mark.parametrize("target", ["", "  "])
def test_an_empty_target(target: str) -> None:
    with pytest.raises(FactError, match="target"):
        Tokens(TOKENIZERS["plain"]).encode_continuation("It is in", target)


def test_an_end_token_that_the_tokenizer_appends_is_left_out() -> None:
    class Ends:
        """A tokenizer that puts <s> in front and </s> at the end, and returns token types."""

        is_fast = True
        bos_token_id, eos_token_id, unk_token_id = 0, 1, None

        def __call__(self, text: str, add_special_tokens: bool, **_: Any) -> dict[str, Any]:
            ids = [ord(c) for c in text]
            offsets = [(i, i + 1) for i in range(len(text))]
            mask = [0] * len(ids)
            if add_special_tokens:
                ids, offsets, mask = [0, *ids, 1], [(0, 0), *offsets, (0, 0)], [1, *mask, 1]
            return {"input_ids": ids, "offset_mapping": offsets, "special_tokens_mask": mask}

        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(chr(i) for i in ids if i > 1)

    tokens = Tokens(Ends())
    assert tokens.encode("ab") == [0, 97, 98]
    assert tokens.encode("") == [0, 1]
    found = tokens.encode_with_subject("ab c", (0, 2))
    assert (found.subject_first, found.subject_last) == (1, 2)
    prompt_ids, target_ids = tokens.encode_continuation("a", "b")
    assert (prompt_ids, target_ids) == ([0, 97], [32, 98])


def test_padding() -> None:
    tokens = Tokens(TOKENIZERS["plain"])
    rows = [[7, 8, 9], [5]]
    right, right_mask = tokens.pad(rows, "right")
    left, left_mask = tokens.pad(rows, "left")
    assert right.tolist() == [[7, 8, 9], [5, 2, 2]]
    assert left.tolist() == [[7, 8, 9], [2, 2, 5]]
    assert right_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert left_mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert left.dtype == left_mask.dtype == torch.int64
    assert tokens.pad([[], []], "left")[0].shape == (2, 0)


def test_padding_stays_in_the_vocabulary() -> None:
    assert Tokens(TOKENIZERS["plain"]).pad_id == 2
    assert Tokens(TOKENIZERS["metaspace"]).pad_id == 0
    added = copy.deepcopy(TOKENIZERS["plain"])
    size = len(added)
    added.add_special_tokens({"pad_token": "<fill>"})
    assert Tokens(added).pad_id == size
    assert Tokens(added, vocabulary=size).pad_id == 1


def test_more_tokens_than_the_model_has_embeddings() -> None:  # finding 17
    with pytest.raises(ModelError, match=r"\d+ tokens, and the model embeddings for 3.*belongs"):
        Tokens(TOKENIZERS["plain"], vocabulary=3)
    added = copy.deepcopy(TOKENIZERS["plain"])
    size = len(added)
    added.add_tokens(["Quetzalcoatl"])
    tokens = Tokens(added, vocabulary=size)
    assert tokens.encode("The capital")
    with pytest.raises(ModelError, match=rf"token {size} for 'The Quetzal.*0 to {size - 1}\."):
        tokens.encode("The Quetzalcoatl")


def test_errors_of_a_tokenizer_are_told() -> None:
    class Broken:
        is_fast = True

        def __call__(self, *args: object, **kwargs: object) -> None:
            raise RuntimeError("WordPiece error: Missing [UNK] token from the vocabulary")

        decode = __call__

    with pytest.raises(ModelError, match=r"fails on 'Paris'.*Missing \[UNK\].*tokenizer\.json"):
        Tokens(Broken()).encode("Paris")
    with pytest.raises(ModelError, match=r"Missing \[UNK\].*tokenizer\.json"):
        Tokens(Broken()).decode([1])


def test_a_tokenizer_without_offsets() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match=r"Slow gives no character offsets.*fast tokenizer"):
        Tokens(Slow())
