"""Gradients at the outputs of edited matrices, and the plug-in that goes by them."""

from pathlib import Path

import pytest
import torch
from tests.tiny import SENTENCES, tiny_model
from torch.nn import functional as F

from alphaedit import Editor, Fact
from alphaedit.core.errors import ConfigError, FingerprintError
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.corpus import open_corpus
from alphaedit.stats.output_moment import output_moments
from alphaedit.stats.statistics import ModelStatistics

FACTS = [
    Fact("The capital of {} is", "France", "Madrid"),
    Fact("{} lives in", "Marie Curie", "a house by the river"),
]
LAYERS = (1, 2)


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_they_are_the_gradients_of_a_change_of_the_output(family: str, text: str) -> None:
    handle = ModelHandle(*tiny_model(family))
    corpus = open_corpus(text, handle, seed=0, model="m")
    tokens, seed = 60, 3
    found = output_moments(handle, corpus, LAYERS, tokens=tokens, seed=seed)
    # Plainly: one row, one token's loss after another, by a bias that is added to the output.
    ids = torch.tensor([next(iter(_rows(handle, corpus)))])
    generator = torch.Generator().manual_seed(seed)
    for layer in LAYERS:
        module, bias = handle.edited_module(layer), {}

        def add(m: object, a: object, out: torch.Tensor, bias: dict = bias) -> torch.Tensor:
            bias["x"] = torch.zeros_like(out, requires_grad=True)
            return out + bias["x"]

        hook = module.register_forward_hook(add)
        logits = handle.forward(ids, torch.ones_like(ids))[0].float()
        hook.remove()
        generator.manual_seed(seed)
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        loss = F.cross_entropy(logits, drawn, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, bias["x"])
        flat = gradient.reshape(-1, gradient.shape[-1]).double()
        assert torch.allclose(found[layer].double(), flat.T @ flat / ids.shape[1], atol=1e-6)
        assert float(found[layer].trace()) > 0


def _rows(handle: ModelHandle, corpus: object) -> list[list[int]]:
    from alphaedit.stats.output_moment import SEQUENCE
    from alphaedit.stats.second_moment import packed

    length = min(SEQUENCE, handle.max_positions or SEQUENCE)
    rows = [row.ids for row in packed(handle, corpus, length)]  # type: ignore[arg-type]
    assert len(rows[0]) >= 60, "one row is all that is read"
    return rows


def test_they_are_kept_and_never_measured_on_an_edited_model(text: str, tmp_path: Path) -> None:
    def made() -> ModelStatistics:
        handle = ModelHandle(*tiny_model("llama"))
        return ModelStatistics(handle, text, tokens=400, cache_dir=tmp_path / "cache")

    first = made()
    first.with_outputs().prepare(LAYERS)
    again = made()
    again.handle.set_weight(0, again.handle.weight(0) + 0.1)
    for layer in LAYERS:
        assert torch.equal(again.output_spectrum(layer).values, first.output_spectrum(layer).values)
    with pytest.raises(FingerprintError, match=r"curvature of layers \[3\]"):
        again.output_spectrum(3)
    first.forget()
    assert not first._output_moments


@pytest.mark.parametrize("method", ["ft", "memit-history", "rome", "lora"])
def test_the_plug_in_leaves_the_loss_alone(method: str, text: str, tmp_path: Path) -> None:
    editor = Editor.from_pretrained(
        *tiny_model("llama"), corpus=text, tokens=400, cache_dir=tmp_path / "cache"
    )
    several = method in ("memit-history", "lora")
    over = {"layers": LAYERS if several else (1,), "steps": 5, "learning_rate": 0.01}
    if method == "memit-history":
        over |= {"moment_weight": 10.0, "contexts": 1}
    editor.statistics.with_outputs().prepare(LAYERS)
    moments = dict(editor.statistics._output_moments)

    def bend(plugins: tuple[str, ...]) -> float:
        """How far the loss bends along the change, for one of unit norm, over the layers."""
        edit, total = editor.edit(FACTS, method, plugins=plugins, **over), 0.0
        for layer in over["layers"]:
            change = edit.patch.weights[editor.handle.edited_name(layer)].matrix().double()
            a = editor.statistics.second_moment(layer).double()
            bent = torch.trace(moments[layer].double() @ change @ a @ change.T)
            total += float(bent / change.square().sum())
        editor.revert()
        return total

    assert 0 < bend(("curvature:energy=0.5",)) < 0.9 * bend(())


@pytest.mark.parametrize("more", [(), ("names",)])
def test_it_may_join_when_others_are_in_force(
    more: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    editor = Editor.from_pretrained(
        *tiny_model("llama"), corpus=text, tokens=400, cache_dir=tmp_path / "cache"
    )
    over = {"layers": LAYERS, "steps": 3, "contexts": 1, "moment_weight": 10.0}
    editor.edit(FACTS[:1], "memit", **over)
    assert not editor.statistics._output_moments
    edit = editor.edit(FACTS[1:], "memit", plugins=(*more, "curvature"), **over)
    assert edit.patch.weights
    if not more:
        assert set(editor.statistics._output_moments) == set(LAYERS)


def test_not_for_experts(text: str, tmp_path: Path) -> None:
    phases: list[str] = []
    editor = Editor.from_pretrained(
        *tiny_model("mixtral"),
        corpus=text,
        tokens=400,
        cache_dir=tmp_path / "cache",
        progress=lambda phase, done, of: phases.append(phase),
    )
    over = {"layers": (1,), "steps": 2, "contexts": 1, "moment_weight": 10.0}
    editor.edit(FACTS[:1], "memit", **over)
    editor.revert()
    assert "target values" in phases
    phases.clear()
    with pytest.raises(ConfigError, match="a whole layer"):
        editor.edit(FACTS[:1], "memit", plugins=("curvature",), **over)
    assert "target values" not in phases, "it is refused before anything is searched"
