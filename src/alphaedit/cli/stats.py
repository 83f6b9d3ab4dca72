"""`alphaedit stats`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.table import Table

from alphaedit.cli import common
from alphaedit.core.errors import ConfigError


def stats(
    model: Annotated[str, typer.Argument(help="directory, hub name, or 'bundled'")],
    layers: Annotated[str | None, typer.Option(help="e.g. [1,2,3]; default: the preset's")] = None,
    threshold: Annotated[float | None, typer.Option(help="absolute eigenvalue threshold")] = None,
    energy: Annotated[float | None, typer.Option(help="share of the trace preserved")] = None,
    corpus: common.CorpusOption = None,
    tokens: common.TokensOption = None,
    plot: Annotated[Path | None, typer.Option(help="write the spectrum as .svg or .png")] = None,
    json: common.JsonOption = False,
    seed: common.SeedOption = 0,
    device: common.DeviceOption = None,
    dtype: common.DtypeOption = None,
) -> None:
    """Second moments of keys and the null space they leave; computed once, then cached.

    [bold]Examples[/]

    alphaedit stats bundled --plot spectrum.svg

    alphaedit stats ./my-model --corpus wiki.txt --tokens 200000 --layers [3,4,5] --energy 0.98
    """
    if threshold is not None and energy is not None:
        raise ConfigError("Give either --threshold or --energy.")
    if threshold is None and energy is None:
        energy = 0.98
    with common.progress_bars() as report:
        editor = common.open_editor(
            model, report, seed=seed, device=device, dtype=dtype, corpus=corpus, tokens=tokens
        )
        chosen = _layers(editor.handle.n_layers, layers)
        editor.statistics.prepare(chosen)
        rows = editor.statistics.report(chosen, threshold=threshold, energy=energy)
        if plot is not None:
            from alphaedit.report.figures import save, spectrum_figure

            spectra = {n: editor.statistics.spectrum(n).values.tolist() for n in chosen}
            marks = {n: r.threshold for n, r in zip(chosen, rows, strict=True)}
            save(spectrum_figure(spectra, marks), plot)
    if json:
        layers_out = [{"layer": n, **asdict(r)} for n, r in zip(chosen, rows, strict=True)]
        common.emit({"model": model, "corpus": editor.statistics.corpus.name, "layers": layers_out})
        return
    table = Table("layer", "d_in", "null space", "energy left", "|CP|/|C|", "threshold")
    for layer, row in zip(chosen, rows, strict=True):
        table.add_row(
            str(layer),
            str(row.d_in),
            str(row.dim),
            common.percent(row.energy_left),
            f"{row.leak:.2g}",
            f"{row.threshold:.3g}",
        )
    common.out.print(table)


def _layers(count: int, given: str | None) -> list[int]:
    if given is None:
        return list(range(min(count, 5)))
    value = yaml.safe_load(given)
    chosen = [value] if isinstance(value, int) else value
    if not isinstance(chosen, list) or not all(isinstance(n, int) for n in chosen):
        raise ConfigError(f"--layers {given!r} is not a list of numbers.", remedy="Write [1,2,3].")
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise ConfigError(
            f"--layers {given} is out of range.", remedy=f"The model has layers 0 to {count - 1}."
        )
    return sorted(set(chosen))
