"""What `alphaedit plan` says of 100 facts on the bundled model, beside what they take.

    python -m benchmarks.planned [--quick]

Every step of the search is taken, as plans count them. Writes results/planned.json.
"""

from __future__ import annotations

import argparse
import tempfile

from alphaedit.core.fact import Fact
from alphaedit.editor.plan import here, lengths, plan
from alphaedit.editor.session import Editor
from alphaedit.model.shape import shape_of
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.machine import measured, write


def main() -> None:
    """Plan, edit, and write both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 facts")
    quick = parser.parse_args().quick
    count = 10 if quick else 100
    chosen = [r["requested_rewrite"] for r in records(World.load(), count, seed=3)]
    facts = [Fact(r["prompt"], r["subject"], r["target_new"]["str"]) for r in chosen]
    with tempfile.TemporaryDirectory() as cache:
        editor = Editor.from_pretrained("bundled", cache_dir=cache)
        hp = editor.hyperparameters("alphaedit", stop_loss=0.0, steps=25)
        shape = shape_of("bundled")
        rows = lengths(editor.handle.tokens, facts, hp.contexts, hp.context_tokens)
        phases = plan(shape, hp, here(shape), facts=count, rows=rows)
        with measured() as moments:
            editor.statistics.prepare(hp.layers)
        with measured() as spectra:
            for layer in hp.layers:
                editor.statistics.spectrum(layer)
        with measured() as batch:
            edit = editor.edit(facts, stop_loss=0.0, steps=25)
    took = {
        "second moments": moments.seconds,
        "null space": spectra.seconds,
        "target values": edit.seconds["targets"],
        "keys": edit.seconds["keys"],
        "solve": edit.seconds["solve"],
    }
    result = {
        "facts": count,
        "phases": {
            phase.name: {
                "planned_seconds": phase.seconds,
                "seconds": took[phase.name],
                "ratio": phase.seconds / took[phase.name],
            }
            for phase in phases
            if phase.name in took
        },
        "peak_bytes": {
            "second moments": moments.peak_bytes,
            "null space": spectra.peak_bytes,
            "batch": batch.peak_bytes,
        },
        "planned_bytes": {phase.name: phase.memory for phase in phases},
    }
    print(result)
    write("planned", result, quick=quick)


if __name__ == "__main__":
    main()
