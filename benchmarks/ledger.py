"""Ledgers: applying and reverting 1,000 facts at Llama-3-8B's shapes, and a log of 10,000 edits.

    python -m benchmarks.ledger [--quick]

Applying is one matrix product and one pass over the weights for each of five layers; reverting is
one copy. Both are set beside the machine's own rates for these, measured on the same shapes in the
same process. Writes results/ledger.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alphaedit.core.edit import Edit, edit_id
from alphaedit.core.fact import Fact
from alphaedit.core.patch import LowRank, Patch
from alphaedit.editor.layers import Layers
from alphaedit.ledger.ledger import Ledger
from alphaedit.methods.state import Learned
from alphaedit.model.handle import ModelHandle
from alphaedit.model.weights import Weights
from benchmarks.machine import measured, write

SYNCED = 200
"""Commits that are timed, with their fsync."""


class Matrices(ModelHandle):
    """Nothing but edited matrices; adding, copying and restoring them are `ModelHandle`'s own."""

    def __init__(self, layers: int, d_out: int, d_in: int) -> None:
        names = [f"layer_{i}" for i in range(layers)]
        model = nn.ModuleDict({name: nn.Linear(d_in, d_out, bias=False) for name in names})
        model.requires_grad_(False)
        self._weights = Weights(model, sharded=False)  # type: ignore[arg-type]


def weights(quick: bool) -> dict[str, Any]:
    """Seconds to apply and revert, beside those of the operations that it cannot do without."""
    layers, d_in, d_out, facts = (2, 2048, 512, 100) if quick else (5, 14336, 4096, 1000)
    handle = Matrices(layers, d_out, d_in)
    g = torch.Generator().manual_seed(0)
    change = {
        f"layer_{i}.weight": LowRank(
            torch.randn(d_out, facts, generator=g) * 1e-3, torch.randn(facts, d_in, generator=g)
        )
        for i in range(layers)
    }
    model = Layers(handle)
    names = list(change)
    clean = handle.snapshot(names[:1])[names[0]].clone()
    with model.replacing([], [change], 0) as keep:  # pages are touched once
        keep()
    with model.replacing([change], [], 0) as keep:
        keep()
    with measured() as apply, model.replacing([], [change], 0) as keep:
        keep()
    with measured() as revert, model.replacing([change], [], 0) as keep:
        keep()
    assert torch.equal(handle.snapshot(names[:1])[names[0]], clean)
    one = change[names[0]]
    out = torch.empty(d_out, d_in)
    torch.mm(one.left, one.right, out=out)
    began = time.perf_counter()
    for delta in change.values():
        torch.mm(delta.left, delta.right, out=out)
    product = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(layers):
        out.copy_(clean)
    copy = time.perf_counter() - began
    return {
        "layers": layers,
        "d_in": d_in,
        "d_out": d_out,
        "facts": facts,
        "apply_seconds": apply.seconds,
        "revert_seconds": revert.seconds,
        "product_alone_seconds": product,
        "copy_alone_seconds": copy,
        "copy_gb_per_second": 2 * 4 * d_in * d_out * layers / copy / 1e9,
        "bytes_of_weights": 4 * d_in * d_out * layers,
        "peak_bytes_apply": apply.peak_bytes,
        "peak_bytes_revert": revert.peak_bytes,
    }


def log(edits: int) -> dict[str, Any]:
    """Seconds of `alphaedit log` and of opening a ledger of so many edits."""
    with tempfile.TemporaryDirectory() as place:
        ledger = Ledger.create(Path(place) / "ledger", "0" * 64)
        synced, began, commit = os.fsync, time.perf_counter(), 0.0
        for number in range(edits):
            if number == SYNCED:  # the rest is only there to be listed
                commit = (time.perf_counter() - began) / SYNCED
                os.fsync = lambda file: None
            facts = (Fact(f"Number {number} of {{}} is", "edits", "new"),)
            patch = Patch({"a.weight": LowRank(torch.full((4, 1), number + 1.0), torch.ones(1, 4))})
            edit = Edit(
                id=edit_id(patch, facts, None),
                created="",
                method="made-up",
                hyperparameters={},
                facts=facts,
                patch=patch,
                base="0" * 64,
            )
            ledger.commit("edit", add=[(edit, Learned())])
        os.fsync = synced
        began = time.perf_counter()
        assert Ledger(ledger.path).head.size == edits
        opened = time.perf_counter() - began
        argv = [sys.executable, "-m", "alphaedit", "log", str(ledger.path), "-n", "20"]
        times = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run(argv, check=True, capture_output=True)
            times.append(time.perf_counter() - began)
        began = time.perf_counter()
        subprocess.run([*argv[:-2], "--json"], check=True, capture_output=True)
        whole = time.perf_counter() - began
    return {
        "edits": edits,
        "seconds_per_commit": commit,
        "open_seconds": opened,
        "log_20_seconds": sorted(times)[1],
        "log_all_json_seconds": whole,
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small shapes and 500 edits")
    args = parser.parse_args()
    result = {"weights": weights(args.quick), "log": log(500 if args.quick else 10_000)}
    print(result)
    write("ledger", result, quick=args.quick)


if __name__ == "__main__":
    main()
