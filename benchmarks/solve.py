"""One batch of edits: the formula with dense d x d matrices against the solver.

    python -m benchmarks.solve [--quick] [--past 0]

The formula is AlphaEdit's equation 14 as its reference implementation computes it:
torch.linalg.solve(P (Kp Kp^T + K K^T) + ridge I, P K R^T). The null space is half of the space,
where the solver's basis is largest. Writes results/solve.json.
"""

from __future__ import annotations

import argparse
import gc

import torch
from torch import Tensor

from alphaedit.linalg.solve import System
from alphaedit.linalg.subspace import Subspace
from benchmarks.machine import measured, write

RIDGE = 10.0


def random_basis(d: int, m: int, generator: torch.Generator, reflections: int = 8) -> Tensor:
    """Dense orthonormal columns [d, m], by Householder reflections of the unit vectors."""
    basis = torch.eye(d, m)
    for _ in range(reflections):
        v = torch.nn.functional.normalize(torch.randn(d, generator=generator), dim=0)
        basis.addr_(v, v @ basis, alpha=-2.0)
    return basis


def main() -> None:
    """Time both on the same random matrices and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="d = 1024 instead of 14336")
    parser.add_argument("--past", type=int, default=0, help="keys of earlier batches")
    args = parser.parse_args()
    d, d_out, u = (1024, 256, 100) if args.quick else (14336, 4096, 100)
    g = torch.Generator().manual_seed(0)
    subspace = Subspace(d, random_basis(d, d // 2, g), complement=True)
    past = torch.randn(d, args.past, generator=g)
    keys, residual = torch.randn(d, u, generator=g), torch.randn(d_out, u, generator=g)
    warm = Subspace(64, random_basis(64, 32, g), complement=True)
    System(ridge=RIDGE, subspace=warm).solve(keys[:64], residual)

    with measured() as history_cost:
        system = System(ridge=RIDGE, subspace=subspace, past_keys=past)
    times = []
    for _ in range(5):
        gc.collect()
        with measured() as ours:
            found = system.solve(keys, residual)
        times.append(ours)
    fast = sorted(times, key=lambda m: m.seconds)[len(times) // 2]
    fast_peak = max(m.peak_bytes for m in [*times, history_cost])

    p = subspace.matrix()
    cache = past @ past.T
    gc.collect()
    with measured() as formed:
        matrix = p @ (cache + keys @ keys.T)
        matrix.diagonal().add_(RIDGE)
        right = p @ (keys @ residual.T)
    with measured() as solved:
        dense = torch.linalg.solve(matrix, right).T
    gap = float((found.matrix() - dense).norm() / dense.norm())

    matrix_bytes = 4 * d * d
    plain_seconds = formed.seconds + solved.seconds
    result = {
        "d_in": d,
        "d_out": d_out,
        "facts": u,
        "past_keys": args.past,
        "null_space_dim": subspace.dim,
        "plain_seconds": plain_seconds,
        "plain_seconds_of_linear_solve_alone": solved.seconds,
        "system_seconds": fast.seconds,
        "system_seconds_to_take_in_history": history_cost.seconds,
        "ratio": plain_seconds / fast.seconds,
        "ratio_with_history": plain_seconds / (fast.seconds + history_cost.seconds),
        "ratio_to_linear_solve_alone": solved.seconds / fast.seconds,
        "system_peak_extra_in_dxd_float32": fast_peak / matrix_bytes,
        "system_basis_in_dxd_float32": subspace.basis.nbytes / matrix_bytes,
        "plain_peak_extra_in_dxd_float32": max(formed.peak_bytes, solved.peak_bytes) / matrix_bytes,
        "plain_held_before_in_dxd_float32": (p.nbytes + cache.nbytes) / matrix_bytes,
        "relative_difference": gap,
    }
    path = write("solve" if not args.past else f"solve-past{args.past}", result, quick=args.quick)
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
