"""Patches and their low-rank factors."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alphaedit.core.change import HookChange, MemoryChange
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


def hook_change(**over: object) -> HookChange:
    rows = {"key": torch.ones(3, 2), "target": torch.tensor([[1], [2], [-1]])}
    return HookChange(
        **{
            "name": "grace",
            "owner": torch.tensor([0, 1, 1]),
            "rows": rows,
            "shared": {"mean": torch.zeros(2)},
            "options": {"layer": 3},
            **over,  # type: ignore[arg-type]
        }
    )


def test_patch_survives_safetensors(tmp_path: Path) -> None:
    delta = low_rank()
    # Factors that share storage, and one that is a transposed view, as a solver may return them.
    patch = Patch(
        weights={NAME: delta, "b.weight": LowRank(delta.left, delta.left.T)},
        changes=(
            hook_change(),
            MemoryChange("ike", torch.tensor([0]), texts=("Imagine that",)),
        ),
        metadata={"method": "alphaedit"},
    )
    save_file(patch.tensors(), tmp_path / "patch.safetensors")
    about = json.loads(json.dumps(patch.about()))
    again = Patch.from_tensors(
        load_file(tmp_path / "patch.safetensors"), about=about, metadata=patch.metadata
    )
    assert set(again.weights) == {NAME, "b.weight"}
    for name, kept in patch.weights.items():
        assert torch.equal(kept.left, again.weights[name].left)
        assert torch.equal(kept.right, again.weights[name].right)
    hook, memory = again.changes
    assert isinstance(hook, HookChange)
    assert isinstance(memory, MemoryChange)
    assert torch.equal(hook.rows["target"], torch.tensor([[1], [2], [-1]]))
    assert (hook.name, hook.options, list(hook.shared)) == ("grace", {"layer": 3}, ["mean"])
    assert memory.texts == ("Imagine that",)
    assert again.metadata == patch.metadata


def test_rows_go_with_their_facts() -> None:
    left = hook_change(texts=("a", "b", "c")).without([1])
    assert left is not None
    assert (left.owner.tolist(), left.texts, len(left.rows["key"])) == ([0], ("a",), 1)
    assert list(left.shared) == ["mean"]
    assert left.without([0]) is None
    rest = hook_change().without([0])
    assert rest is not None
    assert rest.owner.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("over", "error", "match"),
    [
        ({"name": ""}, ConfigError, "owners"),
        ({"owner": torch.tensor([0.0])}, ConfigError, "owners of shape"),
        ({"rows": {"key": torch.ones(2, 2)}}, ConfigError, "there are 3 rows"),
        ({"rows": {"a/b": torch.ones(3)}}, ConfigError, "impossible name"),
        ({"texts": ("one",)}, ConfigError, "1 texts for 3 rows"),
        ({"rows": {"key": torch.full((3,), torch.inf)}}, NonFiniteError, "infinity"),
    ],
)
def test_changes_that_do_not_fit(over: dict[str, object], error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        hook_change(**over)


@pytest.mark.parametrize(
    ("about", "match"),
    [
        ({"kind": "magic"}, "kind 'magic'.*newer version"),
        ({"version": 9}, "version 9.*newer version"),
        ({"texts": "abc"}, "broken"),
        ({"texts": ["a"]}, "1 texts for 3 rows"),
    ],
)
def test_changes_of_unknown_kinds_are_refused(about: dict[str, object], match: str) -> None:
    patch = Patch(changes=(hook_change(),))
    (known,) = patch.about()
    with pytest.raises(EditFileError, match=match):
        Patch.from_tensors(patch.tensors(), about=[{**known, **about}])
    with pytest.raises(EditFileError, match="0 changes are declared"):
        Patch.from_tensors(patch.tensors())


def test_tensors_are_copies() -> None:
    patch = Patch({NAME: low_rank()})
    patch.tensors()[f"weights/{NAME}/left"].zero_()
    assert patch.weights[NAME].left.any()


def test_empty() -> None:
    assert Patch().empty
    assert Patch.from_tensors({}).empty
    assert not Patch(changes=(hook_change(),)).empty
    assert Patch().weights is not Patch().weights


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"weights/a/left": torch.ones(2, 1)}, "lacks its right factor"),
        ({"weights/a/up": torch.ones(2, 1)}, "Unknown tensor 'weights/a/up'"),
        ({"lora_A": torch.ones(2, 1)}, "Unknown tensor 'lora_A'"),
        ({"changes/0": torch.ones(1)}, "Unknown tensor"),
        ({"weights/a/left": torch.ones(2, 1), "weights/a/right": torch.ones(2, 2)}, "broken"),
        (
            {"weights/a/left": torch.ones(2, 1), "weights/a/right": torch.full((1, 2), torch.nan)},
            "NaN",
        ),
        ({"changes/0/owner": torch.zeros(1).long()}, "0 changes are declared"),
    ],
)
def test_broken_tensors_are_refused(tensors: dict[str, torch.Tensor], match: str) -> None:
    with pytest.raises(EditFileError, match=match):
        Patch.from_tensors(tensors)


def test_impossible_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="empty parameter"):
        Patch(weights={"": low_rank()})
    with pytest.raises(ConfigError, match="Give a Change"):
        Patch(changes=("x",))  # type: ignore[arg-type]
