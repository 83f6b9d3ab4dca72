"""The null space of a second moment: full SVD against the symmetric eigendecomposition.

    python -m benchmarks.nullspace [--quick]

Reference implementations take torch.linalg.svd of the d x d second moment. Writes
results/nullspace.json.
"""

from __future__ import annotations

import argparse

import torch

from alphaedit.linalg.subspace import null_space, spectrum
from benchmarks.machine import measured, write


def main() -> None:
    """Time both on one random second moment and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="d = 512 instead of 4096")
    quick = parser.parse_args().quick
    d = 512 if quick else 4096
    g = torch.Generator().manual_seed(0)
    # Eigenvalues that fall over six orders of magnitude, as those of keys do.
    keys = torch.randn(d, 2 * d, generator=g) * torch.logspace(2, -1, d)[:, None]
    c = keys @ keys.T / (2 * d)
    torch.linalg.eigh(c[:64, :64])
    torch.linalg.svd(c[:64, :64])
    with measured() as ours:
        s = spectrum(c)
        subspace = null_space(s, energy=0.98)
    with measured() as plain:
        u, values, _ = torch.linalg.svd(c)
    kept = d - subspace.dim
    reference = u[:, :kept]
    p = subspace.matrix()
    gap = float((p - (torch.eye(d) - reference @ reference.T)).norm()) / subspace.dim**0.5
    result = {
        "d_in": d,
        "null_space_dim": subspace.dim,
        "svd_seconds": plain.seconds,
        "spectrum_seconds": ours.seconds,
        "ratio": plain.seconds / ours.seconds,
        "svd_peak_extra_in_dxd_float32": plain.peak_bytes / (4 * d * d),
        "spectrum_peak_extra_in_dxd_float32": ours.peak_bytes / (4 * d * d),
        "relative_difference_of_projections": gap,
        "relative_difference_of_eigenvalues": float(
            (s.values.flip(0) - values).abs().max() / values[0]
        ),
    }
    print(write("nullspace", result, quick=quick).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
