"""Text for second moments: of the package, files, data sets, or the model's own words."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from os.path import exists, expanduser

import torch

from alphaedit.core.errors import ConfigError, StatsError
from alphaedit.core.parsing import Broken, parse_json
from alphaedit.core.reading import check_text, decode, read_bytes
from alphaedit.model.generate import generate_ids
from alphaedit.model.handle import ModelHandle

SELF_LENGTH = 96
SELF_ROWS = 64
TRIED_TEXTS, TRIED_LENGTH = 6, 48
READ = 0.6
"""A model reads a text if its loss is below this share of that of guessing."""
READING = b"2"
"""Of the way texts are cut out of files: second moments of others are not of the same text."""


@dataclass(frozen=True)
class Corpus:
    """Text by name.

    Attributes:
        name: what was asked for, such as "bundled" or a path.
        fingerprint: SHA-256 of the content, or of what decides it.
        texts: makes a fresh iterator over the texts.
    """

    name: str
    fingerprint: str
    texts: Callable[[], Iterator[str]]


NAMED = ("general", "bundled", "self")


def check_corpus(spec: str | None) -> None:
    """Refuse a corpus that is a file and no text, before a model is loaded.

    Raises:
        StatsError: there is no such file, or it is no regular file, too large or no text.
        ConfigError: it is no text.
    """
    if spec is None or spec in NAMED:
        return
    if not isinstance(spec, str):
        raise ConfigError(f"The corpus is {type(spec).__name__}.", remedy=CORPORA)
    if not spec.startswith("hf:"):
        check_text(_file(spec), error=StatsError, what=_WHAT)


def _file(spec: str) -> str:
    path = expanduser(spec)
    if not exists(path):
        raise StatsError(f"There is no text file at {spec}.", remedy=CORPORA)
    return path


_WHAT = "Text file"
CORPORA = "Give a text or .jsonl file, 'hf:NAME', 'general', 'bundled' or 'self'."


def open_corpus(
    spec: str, handle: ModelHandle, *, seed: int = 0, field: str = "text", model: str | None = None
) -> Corpus:
    """The corpus that `spec` names.

    Args:
        spec: a .jsonl file (its `field`), any other text file (paragraphs), "hf:NAME", with
            optional ":CONFIG" and ":SPLIT", "general" (the package's own text, about 115,000
            tokens), "bundled" (the world of the bundled models) or "self" (sampled from the model,
            seeded).
        model: fingerprint of the unedited model, for "self".

    Raises:
        StatsError: the file is missing, no regular file, larger than 512 MiB, no text in UTF-8,
            empty, or has a bad line; the data set cannot be loaded.
    """
    if spec == "general":
        return _general()
    if spec == "bundled":
        return _bundled(handle, seed)
    if spec == "self":
        origin = f"self:{model or handle.fingerprint()}:{seed}"
        print_of = sha256(origin.encode()).hexdigest()
        return Corpus("self", print_of, remembered(lambda: self_texts(handle, seed)))
    if spec.startswith("hf:"):
        return _hub(spec, field)
    path = _file(spec)
    content = read_bytes(path, error=StatsError, what=_WHAT)
    text = decode(content, path, error=StatsError)
    if not text.strip():
        raise StatsError(f"{spec} is empty.", remedy="Give a file with text.")
    if path.endswith(".jsonl"):
        texts = _json_lines(path, text, field)
    else:
        texts = [part.strip() for part in _BLANK.split(text) if part.strip()]
    digest = sha256(content + field.encode() + READING).hexdigest()
    return Corpus(path, digest, lambda: iter(texts))


# Also where lines end as on Windows, or a blank one has spaces.
_BLANK = re.compile(r"\r?\n[^\S\n]*\n")


def _json_lines(path: str, content: str, field: str) -> list[str]:
    texts = []
    # Not splitlines(): JSON text may hold U+2028 and its kin unescaped.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except Broken as error:
            raise StatsError(
                f"{path}, line {number}: {error.problem}.", remedy="Mend the line."
            ) from None
        text = row.get(field) if isinstance(row, dict) else None
        if not isinstance(text, str) or not _storable(text):
            raise StatsError(
                f"{path}, line {number}: there is no text in field {field!r}.",
                remedy="Give each line an object with that field.",
            )
        texts.append(text)
    return texts


def _storable(text: str) -> bool:
    """Whether it has no half of a character (a lone surrogate), which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@torch.no_grad()
def usual(handle: ModelHandle) -> str:
    """The corpus for a model of which nothing is said.

    "bundled" for bundled models; "general" for those that read such text, by their loss on the
    beginning of it; "self" for others, which know a world of their own.
    """
    if handle.is_bundled:
        return "bundled"
    length = min(TRIED_LENGTH, handle.max_positions or TRIED_LENGTH)
    texts = itertools.islice(_general().texts(), TRIED_TEXTS)
    rows = [row[:length] for row in map(handle.tokens.encode, texts) if len(row) >= 2]
    if not rows:
        return "self"
    ids, mask = handle.tokens.pad(rows, "right")
    log_p = handle.forward(ids, mask)[:, :-1].float().log_softmax(-1)
    real = mask[:, 1:].bool().to(log_p.device)
    told = log_p.gather(2, ids[:, 1:, None].to(log_p.device))[..., 0][real]
    chance = math.log(log_p.shape[-1])
    return "general" if float(-told.mean()) < READ * chance else "self"


def _general() -> Corpus:
    """Text of many kinds that comes with the package: prose, talk, code, several languages."""
    content = (files("alphaedit.stats") / "general.txt").read_bytes()
    texts = content.decode().split("\n\n\n")
    return Corpus("general", sha256(content).hexdigest(), lambda: iter(texts))


def _bundled(handle: ModelHandle, seed: int) -> Corpus:
    from alphaedit.world.facts import World
    from alphaedit.world.text import bundled_texts

    subjects = getattr(handle.model.config, "alphaedit_subjects", None)
    origin = f"bundled:{World.load().fingerprint()}:{subjects}:{seed}"
    return Corpus(
        "bundled",
        sha256(origin.encode()).hexdigest(),
        lambda: bundled_texts(seed=1 + seed, subjects=subjects),
    )


def _hub(spec: str, field: str) -> Corpus:
    name, _, rest = spec.removeprefix("hf:").partition(":")
    config, _, split = rest.partition(":")
    try:
        from datasets import load_dataset  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise StatsError(
            "Data sets of the Hugging Face hub need the datasets library.",
            remedy="pip install 'alphaedit[data]'",
        ) from None
    try:
        data = load_dataset(name, config or None, split=split or "train", streaming=True)
    except Exception as error:  # datasets raises many kinds, offline too
        raise StatsError(
            f"Data set {name!r} cannot be loaded: {(str(error).splitlines() or ['?'])[0]}",
            remedy="Check the name and the connection, or give a file.",
        ) from error

    def texts() -> Iterator[str]:
        for number, row in enumerate(data):
            if not isinstance(row.get(field), str):
                raise StatsError(
                    f"{spec}, record {number}: there is no text in field {field!r}.",
                    remedy=f"It has: {', '.join(map(str, row))}.",
                )
            yield row[field]

    return Corpus(spec, sha256(f"{spec}:{field}".encode()).hexdigest(), texts)


def remembered(make: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
    """Texts that are made once, however often they are asked for from the beginning."""
    cached: list[str] = []
    source: list[Iterator[str]] = []

    def texts() -> Iterator[str]:
        at = 0
        while True:
            while at < len(cached):
                yield cached[at]
                at += 1
            if not source:
                source.append(make())
            cached.extend(itertools.islice(source[0], 1))
            if at == len(cached):
                return

    return texts


def self_texts(handle: ModelHandle, seed: int) -> Iterator[str]:
    """Endless text that the model itself writes, from BOS or a random token of its vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    limit = handle.max_positions or SELF_LENGTH
    vocabulary = int(handle.model.config.get_text_config().vocab_size)
    prefix = handle.tokens.encode("")
    while True:
        starts = torch.randint(vocabulary, (SELF_ROWS,), generator=generator).tolist()
        rows = [[*prefix, start] for start in starts]
        if prefix:
            rows[: SELF_ROWS // 2] = [list(prefix)] * (SELF_ROWS // 2)
        length = max(1, min(SELF_LENGTH, limit - len(prefix) - 1))
        new = generate_ids(handle, rows, length, top_k=vocabulary, generator=generator)
        for row, more in zip(rows, new, strict=True):
            text = handle.tokens.decode([*row, *more]).strip()
            if text:
                yield text
