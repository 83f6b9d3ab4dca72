"""`alphaedit stats`."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import options, outputs, prepare, tables
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, output_console, to_json
from alphaedit.core.errors import ConfigError
from alphaedit.core.marks import JSON

if TYPE_CHECKING:
    from alphaedit.model.handle import ModelHandle

EXAMPLES = examples(
    "alphaedit stats bundled --plot spectrum.svg",
    "alphaedit stats ./my-model --corpus text.jsonl --tokens 200000 --layers 3-7",
    "alphaedit stats ./my-model --threshold 0.02 --json",
)
ENERGY = 0.98
GO_ON = "What was computed is kept: the same command goes on from there."


@options.loads_model
def stats(
    model: options.Model,
    corpus: options.CorpusName = None,
    tokens: options.Tokens = None,
    tolerance: options.Tolerance = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="LAYERS",
            help="Layers, such as 3,4,5 or 3-5.",
            show_default="the preset's, or all",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="Eigenvalues below it are null."),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            "--energy",
            help="Share of the keys' energy kept out of the null space, 0 to 1.",
            show_default=f"the preset's, or {ENERGY}",
        ),
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the JSON result here.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the spectra: .svg, .png or .pdf."),
    ] = None,
    cache_dir: options.CacheDir = None,
    force: options.Force = False,
    json: options.Json = False,
    seed: options.Seed = 0,
    loading: options.Loading = options.AS_STORED,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Compute the second moments of a model's keys, and show the null space that they leave.

    Results are kept on disk, where edits find them. An interrupted run goes on where it was.
    """
    if threshold is not None and energy is not None:
        raise ConfigError("--threshold and --energy exclude one another.", remedy="Give one.")
    wanted = prepare.numbers(layers) if layers is not None else None
    places = (outputs.Output("--out", out_file), outputs.Output("--plot", plot))
    outputs.check_outputs(model, places, force=force)
    if plot is not None:
        from alphaedit.report.figures import check_ending

        check_ending(plot)
    out = Session(json=json, quiet=quiet)
    began = time.perf_counter()
    with out.progress(GO_ON) as progress:
        editor = prepare.open_editor(
            model,
            progress,
            seed=seed,
            loading=loading,
            corpus=corpus,
            tokens=tokens,
            tolerance=tolerance,
            cache_dir=cache_dir,
        )
        chosen, space = _choose(editor.handle, wanted, threshold, energy)
        statistics = editor.statistics
        statistics.prepare(chosen)
        tokens_seen = min(statistics.counted(layer) for layer in chosen)
        sites = statistics.sites(chosen)
        rows = [asdict(row) for row in statistics.report(sites, **space)]
        late = outputs.Late(out)

        def draw(path: Path) -> None:
            from alphaedit.report.figures import save_spectra

            drawn = [
                (site, statistics.spectrum(site).values.tolist(), row["dim"])
                for site, row in zip(sites, rows, strict=True)
                if site in map(statistics.busiest, chosen)
            ]
            save_spectra(drawn, path)

        plot = late.write("--plot", plot, draw)
    result: dict[str, Any] = {
        "model": model,
        "corpus": statistics.corpus.name,
        "tokens": tokens_seen,
        **space,
        "layers": [
            {"layer": site if isinstance(site, int) else str(site), **row}
            for site, row in zip(sites, rows, strict=True)
        ],
        "cache": str(statistics.cache.folder),
        "plot": str(plot) if plot else None,
        "seconds": {"total": time.perf_counter() - began},
    }
    from alphaedit.core.files import write_text

    text = to_json({JSON[0]: JSON[1], **result}, indent=1) + "\n"
    late.write("--out", out_file, partial(write_text, text))
    if not json:
        title = f"Keys of {model} over {tokens_seen:,} tokens of {statistics.corpus.name}"
        tables.null_space_table(list(zip(map(str, sites), rows, strict=True)), title)
        console = output_console()
        console.print(f"Kept in {result['cache']}", highlight=False, soft_wrap=True)
        if plot is not None:
            console.print(f"Spectra drawn in {plot}", highlight=False, soft_wrap=True)
    return late.end(result)


def _choose(
    handle: ModelHandle,
    layers: tuple[int, ...] | None,
    threshold: float | None,
    energy: float | None,
) -> tuple[list[int], dict[str, float | None]]:
    """Layers, and how the null space is cut: as given, or as the preset of the model says."""
    from alphaedit.locate.preset import matching
    from alphaedit.methods.presets import preset

    name = matching(handle)
    known = preset(name, "alphaedit") if name else {}
    chosen = list(layers or known.get("layers") or range(handle.n_layers))
    for layer in chosen:
        handle.block(layer)
    if threshold is None and energy is None:
        threshold, energy = known.get("threshold"), known.get("energy")
    if threshold is None and energy is None:
        energy = ENERGY
    return chosen, {"threshold": threshold, "energy": energy}
