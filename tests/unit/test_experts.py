"""Routed experts: what is found of them, what is changed, and what is left alone."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import EXPERTS, tiny_model
from torch import Tensor

from alphaedit import Editor, Fact
from alphaedit.core.errors import AlphaEditWarning
from alphaedit.core.site import Expert
from alphaedit.methods.plugin import plugins
from alphaedit.model.experts import on_routed
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import capture
from alphaedit.stats.second_moment import packed
from alphaedit.stats.statistics import ModelStatistics

SMALL: dict[str, Any] = {
    "layers": (1,),
    "steps": 40,
    "learning_rate": 0.1,
    "clamp": 4.0,
    "contexts": 0,
    "energy": 0.9,
    "ridge_share": 0.01,
    "moment_weight": 0.01,
}


SUBJECTS = ("city", "capital", "born", "located", "names", "field", "Tower", "company")
PLACES = (" Paris", " of", " in", " the")
# The subject's last token is the prompt's: what is written there need not be carried elsewhere.
FACTS = [Fact("And the {}", "city", " in"), Fact("And the {}", "names", " the")]
TEXTS = tuple(
    front + subject + behind + PLACES[i % 4]
    for i, subject in enumerate(SUBJECTS)
    for front, behind in (("Therefore ", " is"), ("I think that ", " was"), ("And the ", ""))
)
KEPT = tuple(text for text in TEXTS if "city" not in text and "names" not in text)


@cache
def trained(kind: str) -> dict[str, Tensor]:
    """Weights of a tiny model that has learned where eight subjects are."""
    model, tokenizer = tiny_model(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.3)
    rows = [tokenizer(text).input_ids for text in TEXTS]
    width = max(map(len, rows))
    ids = torch.tensor([row + [2] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    adam = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        adam.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        adam.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def editor_of(kind: str, cache_dir: Path, *, corpus: str | None = None) -> Editor:
    model, tokenizer = tiny_model(kind)
    model.load_state_dict(trained(kind))
    given = {} if corpus is None else {"corpus": corpus}
    return Editor.from_pretrained(model, tokenizer, tokens=2000, cache_dir=cache_dir, **given)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def routes(handle: ModelHandle, text: str) -> list[Tensor]:
    """Which experts fire at each token of `text`, [layers] of [tokens, experts]."""
    ids = torch.tensor([handle.tokens.encode(text)])
    seen: list[Tensor] = []

    def see(entered: Any) -> None:
        fires = torch.zeros(entered.count, entered.experts.count, dtype=torch.bool)
        seen.append(fires.scatter(1, entered.index, torch.ones_like(entered.index).bool()))

    with ExitStack() as stack, torch.no_grad():
        for layer in range(handle.n_layers):
            stack.enter_context(on_routed(handle.edited_module(layer), see))
        handle.model(input_ids=ids)
    return seen


def alike(handle: ModelHandle, before: list[list[Tensor]]) -> float:
    """Share of tokens and layers at which the same experts fire as before, over KEPT."""
    same = [
        (a == b).all(dim=1)
        for text, known in zip(KEPT, before, strict=True)
        for a, b in zip(routes(handle, text), known, strict=True)
    ]
    return float(torch.cat(same).float().mean())


@pytest.mark.parametrize("kind", EXPERTS)
def test_an_edit_reaches_its_targets_by_the_experts_that_fire(kind: str, cache_dir: Path) -> None:
    editor = editor_of(kind, cache_dir)
    handle = editor.handle
    clean = {k: v.clone() for k, v in handle.model.state_dict().items()}
    edit = editor.edit(FACTS, "alphaedit", **SMALL)
    assert all(a.p_target > 0.5 > b.p_target for a, b in zip(edit.after, edit.before, strict=True))

    fired = set[int]()
    for fact in FACTS:
        fired |= set(routes(handle, fact.text)[1][-1].nonzero().flatten().tolist())
    names = {handle.edited_name(Expert(1, number)) for number in fired}
    assert set(edit.patch.weights) == names == set(edit.null_space)
    now = handle.model.state_dict()
    parameter = handle.edited_name(1)
    for name, tensor in clean.items():
        if name != parameter:
            assert torch.equal(tensor, now[name])
    kept = [torch.equal(a, b) for a, b in zip(clean[parameter], now[parameter], strict=True)]
    assert kept == [number not in fired for number in range(len(kept))]

    later = editor.edit([Fact("And the {}", "company", " in")], "alphaedit", **SMALL)
    assert later.after[0].p_target > 0.5
    assert min(answer.p_target for answer in editor.answers(FACTS)) > 0.5
    editor.revert()
    editor.revert()
    assert all(torch.equal(clean[k], v) for k, v in handle.model.state_dict().items())


def test_the_null_space_keeps_routers_inputs_in_place(tmp_path: Path) -> None:
    """Tokens of preserved prompts go to the experts they went to, more of them than without."""
    corpus = tmp_path / "kept.txt"
    corpus.write_text("\n".join(KEPT * 40), encoding="utf-8")
    shares: dict[float, list[float]] = {0.3: [], 0.9: []}  # at 0.3 nearly all directions are free
    for kind in EXPERTS:
        for energy, found in shares.items():
            editor = editor_of(kind, tmp_path / "cache", corpus=str(corpus))
            before = [routes(editor.handle, text) for text in KEPT]
            edit = editor.edit(FACTS, "alphaedit", **{**SMALL, "energy": energy})
            assert min(answer.p_target for answer in edit.after) > 0.5
            found.append(alike(editor.handle, before))
    assert sum(shares[0.9]) > sum(shares[0.3])
    assert min(shares[0.9]) > 0.85


@pytest.mark.parametrize("method", ["memit", "rome", "emmet", "nse", "rect", "prune", "anyedit"])
def test_other_methods(method: str, cache_dir: Path) -> None:
    editor = editor_of("qwen3_moe", cache_dir)
    clean = {k: v.clone() for k, v in editor.handle.model.state_dict().items()}
    edit = editor.edit(FACTS, method, **SMALL)
    assert sum(a.p_target - b.p_target for a, b in zip(edit.after, edit.before, strict=True)) > 0
    editor.revert()
    assert all(torch.equal(clean[k], v) for k, v in editor.handle.model.state_dict().items())


# `curvature` refuses them: tests/unit/test_output_moments.py.
@pytest.mark.parametrize("plugin", sorted(plugins().keys() - {"curvature"}))
def test_plugins_see_each_expert_as_a_layer(plugin: str, cache_dir: Path) -> None:
    editor = editor_of("mixtral", cache_dir)
    if plugin == "refresh-projector":
        spec = "refresh-projector:every=1,abort=1000"
    else:
        spec = plugin
    method = "memit" if plugin in ("project", "nse") else "alphaedit"
    for fact in FACTS:
        edit = editor.edit([fact], method, **SMALL, plugins=(spec,))
        assert edit.after[0].p_target > edit.before[0].p_target
        assert all("down_proj[" in name for name in edit.patch.weights)


def test_layers_with_and_without_experts_side_by_side(cache_dir: Path) -> None:
    model, tokenizer = tiny_model("qwen3_moe", mlp_only_layers=[0, 2])
    editor = Editor.from_pretrained(model, tokenizer, tokens=2000, cache_dir=cache_dir)
    assert editor.handle.structure.firing == (0, 2, 0, 2)
    edit = editor.edit(FACTS, "memit", **{**SMALL, "layers": (0, 1)})
    names = list(edit.patch.weights)
    assert names[0] == "model.layers.0.mlp.down_proj.weight"
    assert all(name.startswith("model.layers.1.mlp.experts.down_proj[") for name in names[1:])


@pytest.mark.parametrize("kind", EXPERTS)
def test_keys_of_a_batch_are_those_of_one_row_alone(kind: str) -> None:
    handle = ModelHandle.load(*tiny_model(kind))
    rows = [[5, 9, 17, 33, 8], [12, 40, 6], [5, 9, 17, 21], [7, 7, 21, 90, 14, 61, 3, 11, 19]]
    at = [len(row) - 1 for row in rows]
    together = capture(handle, rows, at, key_layers=[0, 2])[0]
    for i, row in enumerate(rows):
        alone = capture(handle, [row], [at[i]], key_layers=[0, 2])[0]
        for layer in (0, 2):
            torch.testing.assert_close(together[layer][i], alone[layer][0], rtol=1e-4, atol=1e-5)
    experts = handle.experts(2)
    assert experts is not None
    for key in together[2]:
        assert len(experts.fired(key[:, None])) == handle.structure.firing[2]


@pytest.mark.parametrize("kind", EXPERTS)
def test_second_moments_are_those_of_the_tokens_routed_there(kind: str, tmp_path: Path) -> None:
    model, tokenizer = tiny_model(kind)
    handle = ModelHandle.load(model, tokenizer)
    statistics = ModelStatistics(handle, "self", tokens=600, cache_dir=tmp_path)
    size = handle.d_in(Expert(1, 0))
    rows = []
    for row in packed(handle, statistics.corpus, 128):
        if sum(map(len, rows)) >= 600:
            break
        rows.append(row.ids)
    every = [row for row in rows for _ in row]
    places = [place for row in rows for place in range(len(row))]
    stacked = capture(handle, every, places, key_layers=[1])[0][1].double().unflatten(1, (-1, size))
    few = bool((stacked.ne(0).any(2).sum(0) < size).any())
    with pytest.warns(AlphaEditWarning) if few else nullcontext():
        statistics.prepare([1])
    energy = float(stacked.square().sum() / stacked.ne(0).any(2).sum() / size)
    for number in range(stacked.shape[1]):
        own = stacked[:, number]
        own = own[own.ne(0).any(1)]
        site = Expert(1, number)
        assert abs(statistics.counted(site) - len(own)) <= 2  # near ties between experts
        lacking = max(0, size - len(own)) / size
        expected = own.T @ own / max(1, len(own)) * (1 - lacking)
        expected.diagonal().add_(lacking * energy)
        torch.testing.assert_close(
            statistics.second_moment(site).double(), expected, rtol=5e-2, atol=5e-2 * energy
        )
    again = ModelStatistics(handle, "self", tokens=600, cache_dir=tmp_path)
    site = Expert(1, 3)
    assert torch.equal(again.second_moment(site), statistics.second_moment(site))


def test_experts_that_saw_few_tokens_are_told_and_not_free(tmp_path: Path) -> None:
    handle = ModelHandle.load(*tiny_model("mixtral"))
    statistics = ModelStatistics(handle, "self", tokens=40, cache_dir=tmp_path)
    with pytest.warns(AlphaEditWarning, match=r"routed to \d of 4 experts.*1\.\d \(\d+\)"):
        statistics.prepare([1])
    for site in handle.sites(1):
        values = statistics.spectrum(site).values
        if statistics.counted(site) < 24:
            # Half of the energy at least is the mean's: no direction is free for nothing.
            assert float(values[0]) > 0.4 * float(values.mean())
