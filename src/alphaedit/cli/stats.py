"""`alphaedit stats`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import options, outputs, prepare, tables
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, to_json
from alphaedit.core.marks import JSON

if TYPE_CHECKING:
    from alphaedit.jobs.stats import StatsRequest, StatsResult

EXAMPLES = examples(
    "alphaedit stats bundled --plot spectrum.svg",
    "alphaedit stats ./my-model --corpus text.jsonl --tokens 200000 --layers 3-7",
    "alphaedit stats ./my-model --threshold 0.02 --json",
)
ENERGY = 0.98
GO_ON = "What was computed is kept: the same command goes on from there."


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Of which keys moments are computed, and how their null space is cut."""

    corpus: options.CorpusName = None
    tokens: options.Tokens = None
    tolerance: options.Tolerance = None
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="LAYERS",
            help="Layers, such as 3,4,5 or 3-5.",
            show_default="the preset's, or all",
        ),
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="Eigenvalues below it are null."),
    ] = None
    energy: Annotated[
        float | None,
        typer.Option(
            "--energy",
            help="Share of the keys' energy kept out of the null space, 0 to 1.",
            show_default=f"the preset's, or {ENERGY}",
        ),
    ] = None


@options.grouped
def stats(
    model: options.Model,
    *,
    keys: Keys,
    out_file: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the JSON result here.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the spectra: .svg, .png or .pdf."),
    ] = None,
    cache_dir: options.CacheDir = None,
    force: options.Force = False,
    common: options.Seeded,
) -> dict[str, Any]:
    """Compute the second moments of a model's keys, and show the null space that they leave.

    Results are kept on disk, where edits find them. An interrupted run goes on where it was.
    """
    from alphaedit.jobs.stats import StatsRequest

    layers = prepare.numbers(keys.layers) if keys.layers is not None else None
    request = StatsRequest(
        model=model,
        plot=plot,
        cache_dir=cache_dir,
        seed=common.seed,
        **{**vars(keys), "layers": layers},
        **vars(common.loading),
    )
    places = (outputs.Output("--out", out_file), outputs.Output("--plot", plot))
    outputs.check_outputs(model, places, force=force)
    if plot is not None:
        from alphaedit.report.figures import check_ending

        check_ending(plot)
    return _run(request, out_file, common.session)


def _run(request: StatsRequest, out_file: Path | None, session: Session) -> dict[str, Any]:
    from alphaedit.core.files import write_text
    from alphaedit.jobs import stats as job
    from alphaedit.jobs.late import Late

    statistics = session.run(job.run, request, note=GO_ON)
    result = statistics.to_json()
    text = to_json({JSON[0]: JSON[1], **result}, indent=1) + "\n"
    late = Late(session.wrote)
    late.write("out", out_file, partial(write_text, text))
    _show(session, statistics, result)
    return outputs.end(session, result, {**statistics.failed, **late.failed})


def _show(session: Session, statistics: StatsResult, result: dict[str, Any]) -> None:
    title = f"Keys of {result['model']} over {statistics.tokens:,} tokens of {result['corpus']}"
    session.say(
        *tables.null_space_table([(str(site), row) for site, row in statistics.rows], title)
    )
    session.say(f"Kept in {result['cache']}")
    if statistics.plot is not None:
        session.say(f"Spectra drawn in {statistics.plot}")
