"""All benchmarks one after the other, then the tables and pictures of docs/performance.md.

    python -m benchmarks.run [--quick] [--only NAME ...] [--page]

Each runs in a process of its own and writes its file in results. About an hour on two cores with
nothing beside it; --quick takes some minutes and writes results/*-quick.json, from which no page is
made. The one for GPUs runs where there is one, those of real models after `make real`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import torch

from benchmarks import golden, real_page
from benchmarks.page import update

ALL = (
    ("gpt2_small",),
    ("gpt2_small", "--bundled"),
    ("half",),
    ("floors",),
    ("targets",),
    ("moments",),
    ("nullspace",),
    ("solve",),
    ("growth",),
    ("ranks",),
    ("planned",),
    ("one_edit",),
    ("ledger",),
    ("studio",),
    ("evaluation",),
    ("trace",),
    ("layers",),
    ("projection",),
    ("methods",),
    ("routers",),
    ("sequence",),
    ("bundled",),
    ("gpu",),
)
REAL = (
    ("golden",),
    ("unknown",),
    ("unknown", "--stretches"),
    ("unknown_bundled",),
    ("real_speed",),
    ("deploy",),
    ("serving",),
    ("picture",),
)
"""Of real models, which `make real` fetches; `--quick` leaves them out."""


def main() -> None:
    """Run what is asked for; benchmarks that fail are named at the end."""
    names = sorted({command[0] for command in (*ALL, *REAL)})
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--page", action="store_true", help="make the page alone")
    args = parser.parse_args()
    failed = []
    real = () if args.quick or golden.missing() else REAL
    for command in () if args.page else (*ALL, *real):
        if args.only and command[0] not in args.only:
            continue
        if command[0] == "gpu" and not (args.quick or torch.cuda.is_available()):
            print("gpu: left out, as there is none", flush=True)
            continue
        argv = [*command, "--quick"] if args.quick else [*command]
        print(" ".join(argv), flush=True)
        began = time.monotonic()
        module = f"benchmarks.{argv[0]}"
        if subprocess.run([sys.executable, "-m", module, *argv[1:]], check=False).returncode:
            failed.append(" ".join(argv))
        print(f"{' '.join(argv)}: {time.monotonic() - began:.0f} s", flush=True)
    if not args.quick:
        update()
        real_page.update()
    if failed:
        raise SystemExit(f"These failed: {', '.join(failed)}. The others' results are written.")


if __name__ == "__main__":
    main()
