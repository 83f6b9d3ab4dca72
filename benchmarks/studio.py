"""What a click in `alphaedit studio` costs with a ledger of 10,000 edits in force.

    python -m benchmarks.studio [--quick]

The bundled small model, and a ledger of 10,000 made-up edits of one fact each, all of them in
force. Every request that the page makes at a click is sent over HTTP, several times; told are the
slowest and the median, and beside seconds those of the processor, which a busy machine changes
less. Then what a preview that is kept and an edit that is taken out cost, and how long the page
takes from the loaded model to its first answer. --quick takes 300 edits. Writes
results/studio.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from alphaedit import Editor
from alphaedit.core.edit import Edit, edit_id
from alphaedit.core.fact import Fact
from alphaedit.core.patch import LowRank, Patch
from alphaedit.jobs.studio import StudioRequest, run
from alphaedit.ledger.ledger import Ledger
from alphaedit.methods.state import Learned
from alphaedit.server.listening import Server, bound
from alphaedit.server.studio import studio_application
from alphaedit.server.studio_safety import TOKEN, Door
from benchmarks.machine import write

MODEL = "bundled-small"
SCALE = 1e-6
"""Of made-up changes: so small that ten thousand of them leave the model able to speak."""


def ledger_of(folder: Path, edits: int) -> Path:
    """A ledger with so many made-up edits of the model, one entry each."""
    editor = Editor.from_pretrained(MODEL, progress=False)
    name, handle = editor.handle.edited_name(1), editor.handle
    shape = handle.d_out(1), handle.d_in(1)
    ledger = Ledger.create(folder, editor.base, model=MODEL)
    generator = torch.Generator().manual_seed(0)
    synced, parent = os.fsync, None
    os.fsync = lambda number: None  # type: ignore[assignment]  # the disk is not what is measured
    try:
        for number in range(edits):
            change = LowRank(
                torch.randn(shape[0], 1, generator=generator) * SCALE,
                torch.randn(1, shape[1], generator=generator),
            )
            facts = (Fact("The capital of {} is", f"Land {number}", f"Town {number}"),)
            patch = Patch({name: change})
            edit = Edit(
                id=edit_id(patch, facts, parent),
                created="",
                method="made-up",
                hyperparameters={},
                facts=facts,
                patch=patch,
                base=editor.base,
                parent=parent,
            )
            ledger.commit("edit", add=[(edit, Learned())], why=f"ticket {number}")
            parent = edit.id
    finally:
        os.fsync = synced
    return ledger.path


class Asker:
    """Asks as the page does, over one connection."""

    def __init__(self, port: int, token: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        self.headers = {TOKEN: token, "Content-Type": "application/json"}

    def __call__(self, path: str, body: Any = None) -> Any:
        """JSON, or the lines of a stream."""
        data = None if body is None else json.dumps(body)
        method = "GET" if body is None else "POST"
        self.connection.request(method, f"/api/{path}", data, self.headers)
        reply = self.connection.getresponse()
        text = reply.read().decode()
        assert reply.status in (200, 202), text
        return text if "ndjson" in reply.headers["content-type"] else json.loads(text)

    def ended(self, run: str) -> Any:
        """A run, once it is over."""
        while (told := self(f"runs/{run}"))["ended"] is None:
            time.sleep(0.05)
        assert told["state"] == "done", told["error"]
        return told


@contextmanager
def serving(request: StudioRequest) -> Iterator[tuple[Asker, dict[str, float]]]:
    """Somebody who asks a studio, and the seconds from the loaded model to the first answer."""
    studio = run(request)
    began, busy = time.perf_counter(), time.process_time()
    door, listener = Door(), bound("127.0.0.1", 0, key=None)
    server = Server(studio, None, grace=1, app=studio_application(studio, door))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    asker = Asker(listener.getsockname()[1], door.token)
    asker("about")
    ready = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - busy,
    }
    try:
        yield asker, ready
    finally:
        server.end()
        thread.join()
        listener.close()


def timed(call: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Seconds of a call: the median and the most, and the median of the processor's."""
    walls, busy = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        busy.append(time.process_time() - cpu)
    return {"seconds": median(walls), "most_seconds": max(walls), "cpu_seconds": median(busy)}


def clicks(ask: Asker, edits: int, rounds: int) -> dict[str, dict[str, float]]:
    """Every request of a click that does not wait for the model."""
    newest = ask("history")["entries"][0]["add"][0]["id"]
    fact = {"prompt": "The capital of {} is", "subject": "Land 7", "target": "Rome"}
    middle = edits // 2
    paths: dict[str, tuple[str, Any]] = {
        "open the page": ("about", None),
        "news": ("news?since=0", None),
        "history": ("history?count=30", None),
        "older entries": (f"history?count=30&before={middle}", None),
        "search the oldest": ("history?count=30&words=Land%203%20is", None),
        "show an edit": (f"history/edits/{newest}", None),
        "diff of an entry": (f"history/diff?a=@{middle - 1}&b=@{middle}", None),
        "check a fact": ("facts/read", {"records": [fact]}),
        "methods": ("methods", None),
    }
    for path, body in paths.values():
        ask(path, body)
    told = ask("facts/read", {"records": [fact]})
    assert "Town 7" in told["rows"][0]["problems"][0]["message"]
    return {name: timed(lambda to=to: ask(*to), rounds) for name, to in paths.items()}


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="300 edits, and less of all")
    quick = parser.parse_args().quick
    edits, rounds = (300, 3) if quick else (10_000, 15)
    with tempfile.TemporaryDirectory() as folder:
        place = ledger_of(Path(folder) / "edits", edits)
        request = StudioRequest(model=MODEL, ledger=place, folder=Path(folder))
        began = time.perf_counter()
        with serving(request) as (ask, ready):
            opened = time.perf_counter() - began - ready["seconds"]
            prompt = {"prompt": "The capital of France is", "max_tokens": 8}
            asked = timed(lambda: ask("ask", {**prompt, "models": ["edited"]}), rounds)
            both = timed(lambda: ask("ask", {**prompt, "models": ["base", "edited"]}), 3)
            found = clicks(ask, edits, rounds)
            last = ask("history")["entries"][0]["add"][0]["id"]
            taken = timed(lambda: ask("history/revert", {"edits": [last]}), 1)
            after = timed(lambda: ask("ask", {**prompt, "models": ["edited"]}), 1)
            back = timed(lambda: ask("history/checkout", {"version": f"@{edits}"}), 1)
    result = {
        "edits": edits,
        "load_seconds": opened,
        "ready": ready,
        "clicks": found,
        "slowest_click": {
            key: max(row[key] for row in (*found.values(), taken, back))
            for key in ("seconds", "cpu_seconds")
        },
        "ask_edited": asked,
        "ask_both": both,
        "revert": taken,
        "first_answer_after_revert": after,
        "check_out": back,
    }
    print(json.dumps(result, indent=1))
    write("studio", result, quick=quick)


if __name__ == "__main__":
    main()
