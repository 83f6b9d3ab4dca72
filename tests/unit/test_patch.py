"""Patches and their low-rank factors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alphaedit.core.errors import ConfigError, EditFileError, NonFiniteError
from alphaedit.core.patch import LowRank, Patch

NAME = "transformer.h.3.mlp.c_proj.weight"


def low_rank(d_out: int = 3, d_in: int = 5, rank: int = 2) -> LowRank:
    generator = torch.Generator().manual_seed(0)
    return LowRank(
        torch.randn(d_out, rank, generator=generator), torch.randn(rank, d_in, generator=generator)
    )


def test_low_rank_is_the_product() -> None:
    delta = low_rank()
    assert (delta.rank, delta.shape) == (2, (3, 5))
    assert torch.equal(delta.matrix(), delta.left @ delta.right)
    assert delta.to(dtype=torch.float64).matrix().dtype == torch.float64
    assert delta.to("cpu").left.dtype == torch.float32


def test_rank_zero_is_a_zero_matrix() -> None:
    assert torch.equal(LowRank(torch.ones(3, 0), torch.ones(0, 5)).matrix(), torch.zeros(3, 5))


@pytest.mark.parametrize(
    ("left", "right", "match"),
    [
        (torch.ones(3, 2), torch.ones(3, 5), "cannot be multiplied"),
        (torch.ones(3), torch.ones(3, 5), "cannot be multiplied"),
        (torch.ones(3, 2).half(), torch.ones(2, 5).half(), "float32"),
        (torch.ones(3, 2), torch.ones(2, 5).double(), "float32"),
        (torch.ones(3, 2, device="meta"), torch.ones(2, 5), "one device"),
    ],
)
def test_factors_that_do_not_fit(left: torch.Tensor, right: torch.Tensor, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        LowRank(left, right)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["left", "right"])
def test_factors_must_be_finite(bad: float, side: str) -> None:
    factors = {"left": torch.ones(3, 2), "right": torch.ones(2, 5)}
    factors[side][1, 1] = bad
    with pytest.raises(NonFiniteError, match=f"The {side} factor"):
        LowRank(**factors)


def test_patch_survives_safetensors(tmp_path: Path) -> None:
    delta = low_rank()
    # Factors that share storage, and one that is a transposed view, as a solver may return them.
    patch = Patch(
        weights={NAME: delta, "b.weight": LowRank(delta.left, delta.left.T)},
        modules={"h.1.mlp": {"memory.keys": torch.ones(2, 2), "steps": torch.tensor(3)}},
        prompt="Imagine that ...",
        metadata={"method": "alphaedit"},
    )
    save_file(patch.tensors(), tmp_path / "patch.safetensors")
    again = Patch.from_tensors(
        load_file(tmp_path / "patch.safetensors"), prompt=patch.prompt, metadata=patch.metadata
    )
    assert set(again.weights) == {NAME, "b.weight"}
    for name, kept in patch.weights.items():
        assert torch.equal(kept.left, again.weights[name].left)
        assert torch.equal(kept.right, again.weights[name].right)
    assert torch.equal(again.modules["h.1.mlp"]["memory.keys"], torch.ones(2, 2))
    assert (again.prompt, again.metadata) == (patch.prompt, patch.metadata)


def test_tensors_are_copies() -> None:
    patch = Patch({NAME: low_rank()})
    patch.tensors()[f"weights/{NAME}/left"].zero_()
    assert patch.weights[NAME].left.any()


def test_empty() -> None:
    assert Patch().empty
    assert Patch.from_tensors({}).empty
    assert not Patch(prompt="x").empty
    assert Patch().weights is not Patch().weights


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"weights/a/left": torch.ones(2, 1)}, "lacks its right factor"),
        ({"weights/a/up": torch.ones(2, 1)}, "Unknown tensor 'weights/a/up'"),
        ({"lora_A": torch.ones(2, 1)}, "Unknown tensor 'lora_A'"),
        ({"modules/a": torch.ones(1)}, "Unknown tensor"),
        ({"weights/a/left": torch.ones(2, 1), "weights/a/right": torch.ones(2, 2)}, "broken"),
        (
            {"weights/a/left": torch.ones(2, 1), "weights/a/right": torch.full((1, 2), torch.nan)},
            "NaN",
        ),
        ({"modules/a/b": torch.full((1,), torch.inf)}, "infinity"),
    ],
)
def test_broken_tensors_are_refused(tensors: dict[str, torch.Tensor], match: str) -> None:
    with pytest.raises(EditFileError, match=match):
        Patch.from_tensors(tensors)


def test_impossible_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="impossible name"):
        Patch(modules={"a": {"b/c": torch.ones(1)}})
    with pytest.raises(ConfigError, match="empty parameter"):
        Patch(weights={"": low_rank()})
