"""Systems of matrices side by side equal one system over all of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alphaedit.core.errors import SubspaceError
from alphaedit.linalg.blocks import BlockSystem
from alphaedit.linalg.solve import RomeSystem, System, shared_update
from alphaedit.linalg.subspace import Subspace

SIZES = (5, 3, 4)


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def scattered(seed: int, columns: int) -> list[Tensor]:
    """Keys of the blocks, each column in two of them."""
    parts = [draw(seed + i, size, columns) for i, size in enumerate(SIZES)]
    for column in range(columns):
        parts[column % len(parts)][:, column] = 0
    return parts


def projections(seed: int) -> list[Tensor]:
    found = []
    for i, size in enumerate(SIZES):
        basis = torch.linalg.qr(draw(seed + i, size, size - 1))[0]
        found.append(basis)
    return found


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    facts=st.integers(1, 4),
    past=st.integers(0, 9),
    projected=st.booleans(),
    moment=st.booleans(),
    slack=st.sampled_from([1.0, 1e-3]),
)
def test_blocks_are_solved_as_one(
    seed: int, facts: int, past: int, projected: bool, moment: bool, slack: float
) -> None:
    keys, old = scattered(seed, facts), scattered(seed + 50, past)
    residual = draw(seed + 7, 6, facts)
    bases = projections(seed + 20)
    moments = [a @ a.T for a in (draw(seed + 30 + i, n, 2 * n) for i, n in enumerate(SIZES))]
    ridge, weight = 0.3, 0.5 if moment else 0.0
    blocks = {
        number: System(
            ridge=ridge,
            subspace=Subspace(size, bases[number], complement=False) if projected else None,
            second_moment=moments[number] if moment else None,
            moment_weight=weight,
        )
        for number, size in enumerate(SIZES)
    }
    joint = BlockSystem(blocks)
    joint.absorb(dict(enumerate(old)))
    found = joint.solve(dict(enumerate(keys)), residual, slack=slack)

    whole = torch.block_diag(*(b @ b.T if projected else torch.eye(len(b)).double() for b in bases))
    k, p, c = torch.cat(keys), torch.cat(old), torch.block_diag(*moments)
    base = whole @ (p @ p.T + weight * c) @ whole + ridge * torch.eye(len(k)).double()
    inverse = whole @ torch.linalg.inv(base) @ whole
    core = torch.linalg.inv(slack * torch.eye(facts).double() + k.T @ inverse @ k)
    expected = residual @ core @ k.T @ inverse
    changes = torch.cat([found[number].matrix() for number in range(len(SIZES))], dim=1)
    torch.testing.assert_close(changes, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(
        joint.reach(dict(enumerate(keys))), (k.T @ inverse @ k).diagonal(), rtol=1e-6, atol=1e-8
    )
    for number, own in enumerate(keys):
        # Facts that do not reach a block cost it nothing, unless past keys tie them to it.
        reach = int(own.ne(0).any(0).sum())
        assert found[number].rank == reach or (past and found[number].rank <= facts)
        if projected:
            kept = torch.eye(len(own)).double() - bases[number] @ bases[number].T
            assert float((found[number].matrix() @ kept).abs().max()) < 1e-10


def test_romes_update_is_shared_at_least_cost() -> None:
    keys = [draw(1, 5), draw(2, 3)]
    moments = [a @ a.T for a in (draw(3, 5, 9), draw(4, 3, 9))]
    residual = draw(5, 6)
    parts = [(RomeSystem(c), k) for c, k in zip(moments, keys, strict=True)]
    found = shared_update(parts, residual)
    given_ = sum(
        (d.matrix() @ k for d, k in zip(found, keys, strict=True)), torch.zeros(6).double()
    )
    torch.testing.assert_close(given_, residual)
    whole = RomeSystem(torch.block_diag(*moments)).update(torch.cat(keys), residual)
    torch.testing.assert_close(torch.cat([d.matrix() for d in found], dim=1), whole.matrix())
    with pytest.raises(SubspaceError, match="key is zero"):
        shared_update([(parts[0][0], torch.zeros(5).double())], residual)
