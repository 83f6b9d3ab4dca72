"""Throughput of `alphaedit serve` against plain generation by transformers, in equal batches.

    python -m benchmarks.serving [--quick]

On SmolLM2-135M-Instruct (`make real` first): as many clients as a batch has rows ask over HTTP at
the same time, and `model.generate` continues the same prompts as one batch; greedily, to the same
number of tokens. Both in turns, the medians of several rounds; beside seconds also those of the
processor, which a busy machine changes less. Then how long it takes to change over between a
ledger of weights and one of a hook. --quick takes the bundled model and less of all. Writes
results/serving.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch

from alphaedit import Editor, Fact
from alphaedit.jobs.serve import ServeRequest, Service, run
from alphaedit.model.answering import Question
from alphaedit.server.app import Limits
from alphaedit.server.listening import Server, bound
from benchmarks.machine import write
from benchmarks.real_models import SMOLLM2, missing

PROMPTS = (
    "The mother tongue of Danielle Darrieux is",
    "The capital of France is",
    "The river flows slowly through the",
    "In the middle of the city there is a",
)
FACT = Fact("The mother tongue of {} is", "Danielle Darrieux", "English")
LEDGERS: dict[str, tuple[str, dict[str, Any]]] = {
    "weights": ("ft", {"steps": 10}),
    "hook": ("grace", {"steps": 3, "radius": 1.0}),
}


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call gives, its seconds, and those of the processor in all threads."""
    wall, processor = time.perf_counter(), time.process_time()
    given = call()
    return given, time.perf_counter() - wall, time.process_time() - processor


def plain(service: Service, prompts: list[str], tokens: int) -> list[str]:
    """Continuations by transformers alone, one batch padded on the left."""
    handle = service._handle
    tokenizer = handle.tokenizer
    ids, mask = handle.tokens.pad([handle.tokens.encode(prompt) for prompt in prompts], "left")
    with torch.no_grad():
        made: Any = handle.model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=handle.tokens.pad_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    return [handle.tokens.decode(row[ids.shape[1] :].tolist()) for row in made]


def over_http(port: int, name: str, prompts: list[str], tokens: int, stream: bool) -> list[str]:
    """The same by as many clients of the endpoint."""

    def ask(prompt: str) -> str:
        body = {"model": name, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        headers = {"Content-Type": "application/json"}
        connection.request(
            "POST", "/v1/completions", json.dumps({**body, "stream": stream}), headers
        )
        reply = connection.getresponse().read().decode()
        connection.close()
        lines = [line[6:] for line in reply.splitlines() if line.startswith("data: {")]
        bodies = [json.loads(line) for line in (lines if stream else [reply])]
        return "".join(part["choices"][0]["text"] for part in bodies)

    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(ask, prompts))


def compared(service: Service, port: int, rows: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Medians of each way, and shares of plain generation's throughput."""
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(rows)]
    name = service.models.names[0]
    ways: dict[str, Callable[[], list[str]]] = {
        "plain": lambda: plain(service, prompts, tokens),
        "served": lambda: over_http(port, name, prompts, tokens, False),
        "streamed": lambda: over_http(port, name, prompts, tokens, True),
    }
    texts = {way: call() for way, call in ways.items()}  # first passes allocate
    figures: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    batches: dict[str, list[int]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, call in ways.items():
            before = service.counted().get(("batches",), 0)
            figures[way].append(timed(call)[1:])
            while service.status()["running"]:
                time.sleep(0.001)
            batches[way].append(service.counted().get(("batches",), 0) - before)
    seconds = {way: median(wall for wall, _ in rows) for way, rows in figures.items()}
    processor = {way: median(own for _, own in rows) for way, rows in figures.items()}
    shares = {
        way: {
            "throughput": seconds["plain"] / seconds[way],
            "by_processor": processor["plain"] / processor[way],
        }
        for way in ("served", "streamed")
    }
    return {
        "rows": rows,
        "most_tokens": tokens,
        "rounds": rounds,
        "seconds": seconds,
        "processor_seconds": processor,
        "share_of_plain": shares,
        "batches": batches,
        "same_texts": texts["plain"] == texts["served"] == texts["streamed"],
    }


def ledgers(model: str, folder: Path) -> dict[str, Path]:
    """One of weights and one of a hook."""
    places = {}
    editor = Editor.from_pretrained(model, progress=False)
    for name, (method, settings) in LEDGERS.items():
        over = {**settings, "layers": (editor.handle.n_layers // 2,)}
        editor.edit(FACT, method, **over)
        places[name] = editor.save(folder / name)
        editor.revert()
    return places


def switched(service: Service, times: int) -> dict[str, Any]:
    """Seconds of a change of ledgers, between one-token requests of one and the other."""
    began, before = service.models.switches, service.models.switch_seconds
    for number in range(times):
        service.ask(
            Question(model=("weights", "hook")[number % 2], prompt=PROMPTS[0], max_tokens=1)
        )
    count = service.models.switches - began
    return {"switches": count, "seconds": (service.models.switch_seconds - before) / count}


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the bundled model, and less of all")
    quick = parser.parse_args().quick
    if not quick and (reason := missing(SMOLLM2)):
        sys.exit(reason)
    model = "bundled-small" if quick else str(SMOLLM2.checkpoint)
    sizes = {"rows": 4, "tokens": 6, "rounds": 1}
    if not quick:
        sizes = {"rows": 8, "tokens": 32, "rounds": 5}
    with tempfile.TemporaryDirectory() as folder:
        places = ledgers(model, Path(folder))
        service = run(ServeRequest(model=model, ledgers=places, batch=sizes["rows"]))
        listener = bound("127.0.0.1", 0, key=None)
        server = Server(service, Limits(), grace=5)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            found = compared(service, listener.getsockname()[1], **sizes)
            found["switch"] = switched(service, 4 if quick else 20)
        finally:
            server.end()
            thread.join()
            listener.close()
    print(json.dumps(found, indent=1))
    write("serving", {"model": Path(model).name, **found}, quick=quick)


if __name__ == "__main__":
    main()
