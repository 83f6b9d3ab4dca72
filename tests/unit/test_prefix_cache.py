"""Rows that share their beginnings give what they give one by one, for fewer tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import LAYERS, tiny_model
from tests.unit.test_capture import CASES, close, load, plain

from alphaedit.model import generate as generating
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import TailPass, capture
from alphaedit.model.passes.prefix_cache import _longest, keys_and_values_of, share

# Contexts, subjects and questions: equal rows, rows that begin others, rows on their own.
CONTEXTS = [[], [7, 8, 9, 10, 11, 12], [7, 8, 20, 21]]
SUBJECTS = [[30, 31], [30, 32, 33], [40], [30, 31]]
ROWS = [c + s + [50, 51] for c in CONTEXTS for s in SUBJECTS] + [[99], [7, 8, 9]]

ROW = st.lists(st.integers(0, 2), max_size=6)


@given(st.lists(ROW.filter(len), max_size=12), st.integers(0, 6))
def test_prefix_cache_are_beginnings_within_the_limit(rows: list[list[int]], limit: int) -> None:
    prefixes, of_row = share(rows, [limit] * len(rows))
    assert len(set(prefixes)) == len(prefixes)
    for row, prefix in zip(rows, of_row, strict=True):
        if prefix >= 0:
            assert tuple(row[: len(prefixes[prefix])]) == prefixes[prefix]
            assert 1 <= len(prefixes[prefix]) <= limit


@given(st.lists(ROW, min_size=1, max_size=12))
def test_longest_rows_own_the_others(rows: list[list[int]]) -> None:
    longest, owner = _longest(rows)
    for row, at in zip(rows, owner, strict=True):
        assert longest[at][: len(row)] == tuple(row)
    for i, a in enumerate(longest):
        assert not any(b[: len(a)] == a for j, b in enumerate(longest) if i != j)


def test_nothing_is_shared_where_it_saves_little() -> None:
    rows = [[1, *range(10 * i, 10 * i + 9)] for i in range(1, 4)]
    assert share(rows, [9, 9, 9]) == ([], [-1, -1, -1])
    assert share([], []) == ([], [])


@pytest.mark.parametrize(("kind", "attention"), CASES)
@pytest.mark.parametrize("max_tokens", [8, None])
def test_capture_of_shared_rows(kind: str, attention: str, max_tokens: int | None) -> None:
    handle = load(kind, attention)
    positions = [len(row) - 1 - (i % 2 and len(row) > 1) for i, row in enumerate(ROWS)]
    layers = [0, LAYERS - 1]
    keys, hidden = capture(
        handle, ROWS, positions, key_layers=layers, hidden_layers=[1], max_tokens=max_tokens
    )
    for i, (row, at) in enumerate(zip(ROWS, positions, strict=True)):
        one, alone = capture(
            handle, [row], [at], key_layers=layers, hidden_layers=[1], max_tokens=max_tokens
        )
        with torch.no_grad():
            close(hidden[1][i], plain(handle, row, 1)[0][at])
        close(alone[1][0], hidden[1][i])
        for layer in layers:
            close(keys[layer][i], one[layer][0])


@pytest.mark.parametrize(("kind", "attention"), CASES)
def test_suffix_of_shared_rows(kind: str, attention: str) -> None:
    handle = load(kind, attention)
    starts = [max(0, len(row) - 3) for row in ROWS]
    tail = TailPass.build(handle, ROWS, starts, 1, check=False)
    out = tail.run(tail.clean)
    for i, (row, start) in enumerate(zip(ROWS, starts, strict=True)):
        with torch.no_grad():
            _, last, _ = plain(handle, row, 1)
        close(out[i, : len(row) - start], last[start:])


def test_fewer_tokens_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    run: list[int] = []
    whole = ModelHandle.forward

    def counted(self: ModelHandle, ids: torch.Tensor, *args: object, **kwargs: object) -> object:
        run.append(ids.numel())
        return whole(self, ids, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelHandle, "forward", counted)
    rows = [[*range(5, 25), i, i + 1] for i in range(100, 130)]
    cache = keys_and_values_of(handle, rows, upto=0)
    assert sum(run) == 20 + 30 * 2
    assert cache.layers[0].keys.shape[-2] == 22  # type: ignore[union-attr]
    assert len(cache.layers) == 1


@pytest.mark.parametrize(("kind", "attention"), CASES)
def test_text_after_a_shared_beginning(
    kind: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = load(kind, attention)
    examples = list(range(10, 22))
    rows = [examples + own for own in ([40, 41, 42], [50], [60, 61], [50, 51, 52, 53])]
    seen: list[torch.Size] = []
    forward = ModelHandle.forward

    def watched(self: ModelHandle, ids: torch.Tensor, *args: object, **options: object) -> object:
        seen.append(ids.shape)
        return forward(self, ids, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelHandle, "forward", watched)
    plain_text = generating.generate_ids(handle, rows, 5)
    whole = sum(shape.numel() for shape in seen)
    seen.clear()
    monkeypatch.setattr(generating, "WORTH_SHARING", 4)
    assert generating.generate_ids(handle, rows, 5) == plain_text
    assert sum(shape.numel() for shape in seen) < whole
