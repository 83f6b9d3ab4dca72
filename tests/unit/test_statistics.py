"""Second moments, corpora and their cache."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from tests.tiny import SENTENCES, tiny_model

from alphaedit.core.errors import (
    AlphaEditWarning,
    ConfigError,
    FingerprintError,
    StatsError,
)
from alphaedit.core.patch import LowRank
from alphaedit.editor.session import Editor
from alphaedit.errors import CacheWarning
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.cache import MomentCache
from alphaedit.stats.corpus import Corpus, open_corpus, usual
from alphaedit.stats.second_moment import collect, packed
from alphaedit.stats.statistics import ModelStatistics


def text(repeats: int = 30) -> Corpus:
    return Corpus("text", "print", lambda: iter(SENTENCES * repeats))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neo"])
def test_equals_a_plain_average_over_tokens(kind: str) -> None:
    handle = ModelHandle.load(*tiny_model(kind))
    found = collect(handle, text(), [0, 2], tokens=400, sequence=32, batch_tokens=96)
    rows = [row.ids for row in islice(packed(handle, text(), 32), 400 // 32 + 1)]
    keys: dict[int, list[torch.Tensor]] = {0: [], 2: []}
    hooks = [
        handle.edited_module(layer).register_forward_pre_hook(
            lambda m, a, layer=layer: keys[layer].append(a[0][0].clone())
        )
        for layer in keys
    ]
    for row in rows:
        ids = torch.tensor([row])
        handle.forward(ids, torch.ones_like(ids))
    for hook in hooks:
        hook.remove()
    for layer, parts in keys.items():
        k = torch.cat(parts)[: found[layer].tokens].double()
        plain = (k.T @ k / len(k)).float()
        torch.testing.assert_close(found[layer].matrix, plain, rtol=1e-4, atol=1e-5)


def test_stops_after_the_last_layer() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    ran = []
    handle.block(2).register_forward_hook(lambda *a: ran.append(2))
    collect(handle, text(), [0, 1], tokens=100, sequence=32)
    assert ran == []


def test_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    options = {"tokens": 900, "sequence": 32, "batch_tokens": 64}
    monkeypatch.setattr("alphaedit.stats.second_moment.SAVE_EVERY", 0.0)
    monkeypatch.setattr("alphaedit.stats.second_moment.BLOCK_TOKENS", 128)
    whole = collect(handle, text(), [1], **options)[1]  # type: ignore[arg-type]

    def kill(phase: str, done: int, total: int) -> None:
        if done > 400:
            raise KeyboardInterrupt

    path = tmp_path / "partial.safetensors"
    with pytest.raises(KeyboardInterrupt):
        collect(handle, text(), [1], resume=path, progress=kill, **options)  # type: ignore[arg-type]
    assert path.is_file()
    seen: list[int] = []
    note = lambda phase, done, total: seen.append(done)  # noqa: E731
    resumed = collect(handle, text(), [1], resume=path, progress=note, **options)[1]  # type: ignore[arg-type]
    assert seen[0] > 300
    assert resumed.tokens == whole.tokens
    assert torch.equal(resumed.matrix, whole.matrix)
    assert not path.exists()


def test_convergence_stops_early() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    found = collect(
        handle, text(200), [0], tokens=20_000, sequence=32, batch_tokens=64, tolerance=0.2
    )
    assert found[0].tokens < 10_000


def test_corpora(tmp_path: Path) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    plain = tmp_path / "text.txt"
    plain.write_text("One.\n\nTwo.\nStill two.\n", encoding="utf-8")
    assert list(open_corpus(str(plain), handle).texts()) == ["One.", "Two.\nStill two."]
    plain.write_bytes(b"One.\r\n\r\nTwo.\r\nStill two.\r\n \r\nThree.")
    assert list(open_corpus(str(plain), handle).texts()) == ["One.", "Two.\r\nStill two.", "Three."]
    lines = tmp_path / "text.jsonl"
    lines.write_text('{"text": "a"}\n\n{"text": "b"}\n', encoding="utf-8")
    assert list(open_corpus(str(lines), handle).texts()) == ["a", "b"]
    own = open_corpus("self", handle, seed=4)
    assert list(islice(own.texts(), 5)) == list(islice(own.texts(), 5))
    assert open_corpus("self", handle, seed=5).fingerprint != own.fingerprint
    lines.write_text('{"text": "a"}\n{"txt": "b"}\n', encoding="utf-8")
    with pytest.raises(StatsError, match="line 2"):
        open_corpus(str(lines), handle)
    plain.write_text(" \n", encoding="utf-8")
    with pytest.raises(StatsError, match="empty"):
        open_corpus(str(plain), handle)
    with pytest.raises(StatsError, match="no text file"):
        open_corpus(str(tmp_path / "missing.txt"), handle)


def test_the_text_of_the_package(tmp_path: Path) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    corpus = open_corpus("general", handle)
    texts = list(corpus.texts())
    assert len(texts) > 200
    assert 400_000 < sum(len(text.encode()) for text in texts) < 1_000_000
    assert len({text[:40] for text in texts}) == len(texts)
    # Kinds are mixed, so that the first part of it is like the whole.
    assert any("def " in text for text in texts[:50])
    assert any("User:" in text for text in texts[:50])
    model, tokenizer = tiny_model("gpt2")
    editor = Editor.from_pretrained(model, tokenizer, corpus="general", cache_dir=tmp_path)
    assert editor.statistics.corpus.fingerprint == corpus.fingerprint
    assert editor.statistics.tokens == 20 * handle.d_in(0)


def test_the_usual_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    assert usual(handle) == "self"  # it guesses
    monkeypatch.setattr("alphaedit.stats.corpus.READ", 2.0)
    assert usual(handle) == "general"
    assert usual(ModelHandle.load("bundled-small")) == "bundled"
    statistics = ModelStatistics(handle, tokens=50, cache_dir=tmp_path)
    assert (statistics.spec, statistics.tokens) == ("general", 50)


def test_cache_does_not_use_what_does_not_belong(tmp_path: Path) -> None:  # finding 21
    cache = MomentCache(tmp_path)
    key = {"kind": "moment", "model": "a", "layer": "1"}
    assert cache.load(key) is None
    cache.save(key, {"matrix": torch.eye(3)})
    loaded = cache.load(key)
    assert loaded is not None
    assert torch.equal(loaded["matrix"], torch.eye(3))
    other = {**key, "model": "b"}
    cache.path(key).rename(cache.path(other))
    with pytest.warns(CacheWarning, match="something else: what it should hold is computed again"):
        assert cache.load(other) is None
    whole = cache.path(other).read_bytes()
    cache.path(other).write_bytes(whole[: len(whole) // 2])
    with pytest.warns(CacheWarning, match="damaged"):
        assert cache.load(other) is None


def test_full_disk_leaves_nothing_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alphaedit.stats.cache.save_file", full)
    with pytest.warns(CacheWarning, match="No space left.*not kept.*--cache-dir"):
        MomentCache(tmp_path).save({"kind": "moment"}, {"matrix": torch.eye(3)})
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_no_obstacle(  # finding 21
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "file" / "cache"))
    plain = tmp_path / "text.txt"
    plain.write_text("\n\n".join(SENTENCES * 20), encoding="utf-8")
    statistics = ModelStatistics(ModelHandle.load(*tiny_model("gpt2")), str(plain), tokens=500)
    with pytest.warns(CacheWarning, match="--cache-dir"):
        statistics.prepare([0])
    assert statistics.second_moment(0).shape == (statistics.handle.d_in(0),) * 2
    with pytest.raises(ConfigError, match="is a file"):
        MomentCache(tmp_path / "file")


# the rest of D: --tokens 1
def test_fewer_tokens_than_directions_are_told(tmp_path: Path) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2", n_inner=200))
    plain = tmp_path / "text.txt"
    plain.write_text("\n\n".join(SENTENCES * 20), encoding="utf-8")

    def prepare(tokens: int, layers: list[int]) -> None:
        made = ModelStatistics(handle, str(plain), tokens=tokens, cache_dir=tmp_path / "cache")
        made.prepare(layers)
        made.prepare([2])  # told once

    for _ in ("computed", "from the cache"):
        with pytest.warns(AlphaEditWarning) as caught:
            prepare(1, [0, 1])
        (said,) = [str(one.message) for one in caught]
        assert "layer 0 averages over" in said
        assert "at most, of 200" in said
        assert "budget, best 8,000" in said
    prepare(300, [0, 1])  # warnings are errors here


def test_statistics_are_of_the_unedited_model(tmp_path: Path) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    plain = tmp_path / "text.txt"
    plain.write_text("\n\n".join(SENTENCES * 20), encoding="utf-8")
    statistics = ModelStatistics(handle, str(plain), tokens=500, cache_dir=tmp_path / "cache")
    statistics.prepare([0])
    d_out, d_in = handle.d_out(0), handle.d_in(0)
    handle.add_delta({handle.edited_name(0): LowRank(torch.ones(d_out, 1), torch.ones(1, d_in))})
    assert statistics.spectrum(0).trace > 0
    with pytest.raises(FingerprintError, match="has been edited"):
        statistics.prepare([1])
