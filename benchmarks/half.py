"""100 edits on the bundled model, with the search's layers in float32 and in bfloat16.

    python -m benchmarks.half [--quick]

Writes efficacy, generalization, specificity and seconds of both to results/half.json.
"""

from __future__ import annotations

import argparse

from alphaedit.bench.data import EditRecord
from alphaedit.bench.run import sequential
from alphaedit.editor.session import Editor
from alphaedit.methods.state import SequentialState
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.machine import write


def main() -> None:
    """Run both on the same records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 records")
    quick = parser.parse_args().quick
    count = 10 if quick else 100
    rows = records(World.load(), count, seed=3)
    chosen = [EditRecord.from_dict(row, f"record {i}") for i, row in enumerate(rows)]
    editor, found = Editor.from_pretrained("bundled"), {}
    before = None
    for dtype in (None, "bfloat16"):
        editor.state = SequentialState()
        run = sequential(
            editor,
            chosen,
            "alphaedit",
            batch_size=count,
            edits=count,
            generation=False,
            before=before,
            search_dtype=dtype,
        )
        before = run.before
        found[dtype or "float32"] = {
            "seconds": editor.edits[-1].seconds,
            **{name: rate.value for name, rate in run.metrics.items() if rate is not None},
        }
        editor.set_edits([])
    print(found)
    write("half", {"edits": count, "search": found}, quick=quick)


if __name__ == "__main__":
    main()
