"""What a measurement ran on, how much memory it took, and where its result goes."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

RESULTS = Path(__file__).parent / "results"


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """The machine (with its load now, as a busy one makes timings lie) and the versions."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
            "threads_used": torch.get_num_threads(),
            "ram_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "load_average_1min": load,
            "system": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


@dataclass
class Measure:
    """Seconds, and bytes of resident memory above those held at the start."""

    seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measured(every: float = 0.001) -> Iterator[Measure]:
    """Time the block and watch its resident set from a thread, once in `every` seconds."""
    process, result, done = psutil.Process(), Measure(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(every):
            result.peak_bytes = max(result.peak_bytes, process.memory_info().rss - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    began = time.perf_counter()
    try:
        yield result
    finally:
        result.seconds = time.perf_counter() - began
        done.set()
        thread.join()
        result.peak_bytes = max(result.peak_bytes, process.memory_info().rss - before)


def write(name: str, result: dict[str, Any], *, quick: bool) -> Path:
    """Write results/NAME.json (NAME-quick.json for a quick run) and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-quick.json" if quick else RESULTS / f"{name}.json"
    text = json.dumps({"benchmark": name, **result, **machine()}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    return path
