"""What reports say about a run, gathered from an editor and the process."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import alphaedit

if TYPE_CHECKING:
    from alphaedit.editor.session import Editor
    from alphaedit.report.page import LayerSpectrum


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    import torch
    import transformers

    return {
        "alphaedit": alphaedit.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }


def spectra(editor: Editor, hyperparameters: Mapping[str, Any]) -> list[LayerSpectrum]:
    """Spectrum and null space of each edited layer; empty for methods that use none."""
    from alphaedit.report.page import LayerSpectrum

    space = {name: hyperparameters.get(name) for name in ("threshold", "energy")}
    if not any(space.values()):
        return []
    layers = hyperparameters["layers"]
    # A mixture of experts is shown by the one of them that most tokens go to.
    sites = [editor.statistics.busiest(layer) for layer in layers]
    reports = editor.statistics.report(sites, **space)
    return [
        LayerSpectrum(
            layer=site,
            values=editor.statistics.spectrum(site).values.tolist(),
            dim=row.dim,
            threshold=row.threshold,
            energy_left=row.energy_left,
            leak=row.leak,
        )
        for site, row in zip(sites, reports, strict=True)
    ]
