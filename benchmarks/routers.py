"""How hooks and memories grow with the number of edits: bytes, time to install, time of requests.

python -m benchmarks.routers [--quick] [--most 3000] [--methods NAME ...]

Facts of the bundled world are edited into bundled-small by every method that installs something,
with as short a search as it takes: what rows cost does not depend on how good they are. Requests
are timed in turns with those of the same model with hooks and memories silent. By default to 1,000
edits.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

from alphaedit.bench.routing import patch_bytes, state_bytes, time_metrics
from alphaedit.core.errors import AlphaEditError
from alphaedit.core.fact import Fact
from alphaedit.core.patch import Patch
from alphaedit.editor.applied import Applied
from alphaedit.editor.session import Editor
from alphaedit.methods.base import Method, Problem
from alphaedit.methods.registry import get_method, methods
from alphaedit.methods.state import SequentialState
from alphaedit.model.acting import acted
from alphaedit.model.route import plain
from alphaedit.world.facts import World
from alphaedit.world.phrasing import train_phrasings
from benchmarks.machine import write

Row = dict[str, Any]
MODEL = "bundled-small"
COUNTS = (30, 100, 300, 1000, 3000)
CHUNK = 100
ASKED = 40
CHEAP = {"steps": 1, "stop_loss": 100.0, "demonstrations": 0}
"""Settings of a search that ends at once and of notes alone, where a method has them."""


def world_facts(count: int) -> tuple[list[Fact], list[str]]:
    """Counterfacts of the world, at most one for a subject and relation, and other prompts."""
    world, rng = World.load(), random.Random(11)
    chosen = [fact for fact in world.facts if len(world.objects[fact.relation]) > 1]
    rng.shuffle(chosen)
    distinct = list({(fact.subject, fact.relation): fact for fact in chosen}.values())
    made = []
    for fact in distinct[: count + ASKED]:
        new = rng.choice([one for one in world.objects[fact.relation] if one != fact.object])
        prompt = train_phrasings(world.relations[fact.relation])[0]
        made.append(Fact(prompt, fact.subject, new))
    return made[:-ASKED], [fact.text for fact in made[-ASKED:]]


def grown(
    editor: Editor,
    method: Method,
    facts: Sequence[Fact],
    others: Sequence[str],
    counts: Sequence[int],
) -> Iterator[Row]:
    """What a method costs after so many edits."""
    handle = editor.handle
    over = {name: value for name, value in CHEAP.items() if name in method.config.model_fields}
    hp = editor.hyperparameters(method.name, None, facts[:2], **over)
    applied, patches, state = Applied(handle), list[Patch](), SequentialState()
    done = 0
    for count in counts:
        solving = installing = 0.0
        begun = done
        while done < count:
            batch = list(facts[done : min(count, done + CHUNK)])
            began = time.perf_counter()
            with plain():
                solution = method.solve(Problem(handle, batch, hp, editor.statistics, state))
            solving += time.perf_counter() - began
            began = time.perf_counter()
            with applied.trial(patches, solution.patch) as keep:
                keep()
            installing = time.perf_counter() - began
            patches.append(solution.patch)
            state, done = solution.state, done + len(batch)
        edited = [fact.text for fact in facts[:done]][:: max(1, done // ASKED)][:ASKED]
        times = time_metrics(handle, edited, others)
        row = {
            "edits": done,
            "bytes_per_edit": sum(map(patch_bytes, patches)) / done,
            "state_bytes_per_edit": state_bytes(state) / done,
            "solve_seconds_per_edit": solving / (done - begun),
            "install_seconds": installing,
            "fired_edits": sum(acted(handle, edited)) / len(edited),
            "fired_others": sum(acted(handle, others)) / len(others),
            **{name: rate.to_json() for name, rate in times.items() if rate is not None},
        }
        print(method.name, row, flush=True)
        yield row


def main() -> None:
    """Grow every method that installs something."""
    known = sorted(name for name, method in methods().items() if method.installs)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="to 30 edits")
    parser.add_argument("--most", type=int, default=1000, help="edits at the end")
    parser.add_argument("--methods", nargs="+", choices=known, default=known, metavar="NAME")
    args = parser.parse_args()
    counts = (10, 30) if args.quick else (*(n for n in COUNTS if n < args.most), args.most)
    facts, others = world_facts(counts[-1])
    if len(facts) < counts[-1]:
        raise SystemExit(f"The world has {len(facts)} such facts; give --most {len(facts)}.")
    found: dict[str, Any] = {}
    for name in args.methods:
        editor = Editor.from_pretrained(MODEL)
        found[name] = {"rows": [], "error": None}
        try:
            for row in grown(editor, get_method(name), facts, others, counts):
                found[name]["rows"].append(row)
        except AlphaEditError as error:
            found[name]["error"] = str(error)
            print(name, error, flush=True)
    write("routers", {"model": MODEL, "methods": found}, quick=args.quick)


if __name__ == "__main__":
    main()
