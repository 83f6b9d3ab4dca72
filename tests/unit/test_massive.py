"""Massive activations: told apart from other keys, preserved exactly, not counted in the energy."""

from pathlib import Path

import pytest
import torch
from tests.tiny import SENTENCES, tiny_model

from alphaedit.core.errors import SubspaceError
from alphaedit.linalg.massive import COLUMNS, MASSIVE, Massive, MassiveSum, told_apart, without
from alphaedit.linalg.subspace import Subspace, null_space, report, spectrum, spectrum_with
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics

D, N = 24, 4000


def keys(massive: float = 300.0, every: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Ordinary keys of decaying spectrum, one in `every` of them massive along one direction."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -2, D, dtype=torch.float64)
    k = torch.randn(N, D, generator=generator, dtype=torch.float64) * scale
    along = torch.nn.functional.normalize(torch.ones(D, dtype=torch.float64), dim=0)
    k[::every] += massive * along
    return k, along


def collected(k: torch.Tensor) -> tuple[torch.Tensor, Massive]:
    total = MassiveSum()
    for part in k.split(500):
        total.add(part)
    moment = (k.T @ k / len(k)).float()
    limit = total.limit or 0.0
    return moment, told_apart(total.factor, total.count, moment, len(k), limit)


def _free(dim: int) -> Subspace:
    return Subspace(300, torch.eye(300)[:, :dim], complement=False)


def test_massive_keys_are_told_apart_and_preserved() -> None:
    k, along = keys()
    moment, massive = collected(k)
    assert massive.directions.shape == (D, 1)
    assert abs(float(massive.directions[:, 0].double() @ along)) > 0.999
    assert massive.share == pytest.approx(16 / N)
    assert massive.energy > 0.99
    # As it was: one direction holds the energy, so nothing else is preserved.
    naive = null_space(spectrum(moment), energy=0.9)
    assert naive.dim == D - 1
    assert "protects nearly nothing" in str(report(spectrum(torch.eye(300)), _free(299)).doubt)
    assert "hardly anything" in str(report(spectrum(torch.eye(300)), _free(1)).doubt)
    found = spectrum_with(moment, massive)
    space = null_space(found, energy=0.9)
    told = report(found, space, massive)
    assert told.doubt is None
    assert told.massive == 1
    assert told.dim == space.dim < D - 2
    assert told.energy_left < 0.11
    # The massive direction is preserved exactly; ordinary keys as a model without it would have it.
    assert float(space.project(massive.directions).norm()) < 1e-5
    plain, _ = keys(massive=0.0)
    ordinary = null_space(spectrum((plain.T @ plain / N).float()), energy=0.9)
    assert abs(space.dim - ordinary.dim) <= 1


def test_thresholds_do_not_see_massive_directions() -> None:
    moment, massive = collected(keys()[0])
    space = null_space(spectrum_with(moment, massive), threshold=0.02)
    assert float(space.project(massive.directions).norm()) < 1e-5
    with pytest.raises(SubspaceError, match="leaves nothing preserved"):
        null_space(spectrum(moment), threshold=1e9)
    # With massive directions, at least those are preserved.
    assert null_space(spectrum_with(moment, massive), threshold=1e9).dim == D - 1


def test_nothing_massive_changes_nothing() -> None:
    k, _ = keys(massive=0.0)
    moment, massive = collected(k)
    assert massive.directions.shape == (D, 0)
    one, other = spectrum(moment), spectrum_with(moment, massive)
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.vectors, other.vectors)
    assert other.exact == 0
    assert massive.limit == pytest.approx(
        MASSIVE * float(k[:500].square().sum(1).median()), rel=1e-5
    )


def test_many_massive_keys_stay_in_bounds() -> None:
    k, along = keys(every=2)
    total = MassiveSum(limit=1000.0)
    for part in k.split(100):
        total.add(part)
    assert total.count == N // 2
    assert total.factor is not None
    assert total.factor.shape[1] <= COLUMNS
    energy = float((total.factor.T @ along).square().sum())
    assert energy == pytest.approx(float((k[::2] @ along).square().sum()), rel=1e-6)


def test_what_is_left_has_nothing_along_the_massive_directions() -> None:
    moment, massive = collected(keys()[0])
    rest = without(moment.double(), massive)
    assert float((rest @ massive.directions.double()).norm()) < 1e-6 * float(moment.norm())
    assert torch.linalg.eigvalsh(rest)[0] > -1e-6 * float(moment.norm())


def test_a_planted_massive_activation_is_found_in_a_model(tmp_path: Path) -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    gate = handle.layers[1].mlp
    bos = handle.tokenizer.bos_token_id
    # What BOS brings into the MLP of layer 1 makes one inner unit huge.
    seen = {}
    hook = gate.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    ids = torch.tensor([[bos, *handle.tokens.encode("The capital of France is")[1:]]])
    handle.forward(ids, torch.ones_like(ids))
    hook.remove()
    first, others = seen["x"][0, 0], seen["x"][0, 1:]
    basis = torch.linalg.qr(others.T).Q
    along = first - basis @ (basis.T @ first)
    with torch.no_grad():
        for name in ("gate_proj", "up_proj"):
            getattr(gate, name).weight[5] = 40 * along / along.dot(first)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 20), encoding="utf-8")
    statistics = ModelStatistics(handle, str(text), tokens=2000, cache_dir=tmp_path / "cache")
    massive = statistics.massive(1)
    exact = massive.directions.shape[1]
    assert 1 <= exact <= handle.d_in(1) // 8
    assert int(massive.directions[:, 0].abs().argmax()) == 5
    assert massive.energy > 0.5
    assert null_space(spectrum(statistics.second_moment(1)), energy=0.5).dim == handle.d_in(1) - 1
    assert statistics.report([1], energy=0.5)[0].dim < handle.d_in(1) - 1 - exact
    # What is kept on disk says the same.
    again = ModelStatistics(handle, str(text), tokens=2000, cache_dir=tmp_path / "cache")
    assert torch.equal(again.massive(1).directions, massive.directions)
    assert torch.equal(again.spectrum(1).vectors, statistics.spectrum(1).vectors)
    assert again.spectrum(1).exact == exact
