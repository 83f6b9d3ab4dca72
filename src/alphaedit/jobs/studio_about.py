"""What the studio tells of itself: the model, examples for it, and results of experiments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import AlphaEditError, UnknownNameError

if TYPE_CHECKING:
    from alphaedit.jobs.studio import Studio

MOST_RESULTS = 200
DEEPEST = 3


def about(studio: Studio) -> dict[str, Any]:
    """The model and where the studio works: JSON values that do not change."""
    import alphaedit
    from alphaedit.locate.preset import matching

    editor, opened = studio.editor, studio.opened
    handle = editor.handle
    return {
        "version": alphaedit.__version__,
        "model": opened.model,
        "name": Path(opened.model).name or opened.model,
        "type": handle.model.config.get_text_config().model_type,
        "layers": handle.n_layers,
        "parameters": sum(p.numel() for p in handle.model.parameters()),
        "dtype": str(handle.dtype).removeprefix("torch."),
        "device": str(handle.device),
        "fingerprint": editor.base[:16],
        "positions": handle.max_positions,
        "bundled": handle.is_bundled,
        "chat": bool(getattr(handle.tokenizer, "chat_template", None)),
        "preset": matching(handle),
        "ledger": str(opened.ledger),
        "folder": str(opened.folder.resolve()),
        "results": str(opened.results) if opened.results else None,
        "most_tokens": opened.max_new_tokens,
        "examples": examples(studio),
    }


def examples(studio: Studio, count: int = 4) -> list[dict[str, Any]]:
    """Facts that a page may offer to begin with: for bundled models, of their world."""
    from alphaedit.stats.phrasings import well_known
    from alphaedit.world.facts import World
    from alphaedit.world.records import records

    handle = studio.editor.handle
    if handle.is_bundled:
        known = getattr(handle.model.config, "alphaedit_subjects", None)
        world = World.load()
        rows = records(world.largest(known) if known else world, count, seed=studio.opened.seed)
        return [
            {
                "prompt": row["requested_rewrite"]["prompt"],
                "subject": row["requested_rewrite"]["subject"],
                "target": row["requested_rewrite"]["target_new"]["str"],
                "truth": row["requested_rewrite"]["target_true"]["str"],
                "paraphrases": row["paraphrase_prompts"][:2],
                "neighborhood": row["neighborhood_prompts"][:3],
            }
            for row in rows
        ]
    made = []
    for relation in well_known()[:count]:
        pairs = list(relation["pairs"].items())
        subject, truth = pairs[0]
        other = next((value for _, value in pairs if value != truth), truth)
        made.append(
            {"prompt": relation["prompt"], "subject": subject, "target": other, "truth": truth}
        )
    return made


class Gallery:
    """Results of experiments below a folder; each is known by its path there.

    Attributes:
        folder: where they are; None if there are none.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def listed(self) -> list[dict[str, Any]]:
        """Experiments and pages, by name: JSON values."""
        rows = []
        for path in self._directories():
            page = path / "report.html"
            rows.append({"name": self._name(path), "page": page.is_file(), **_numbers(path)})
        return rows

    def page(self, name: str) -> Path:
        """The report of one of those listed.

        Raises:
            UnknownNameError: there is none of that name.
        """
        for path in self._directories():
            page = path / "report.html"
            if self._name(path) == name and page.is_file():
                return page
        raise UnknownNameError(f"There is no report {name[:80]!r}.", remedy="See those listed.")

    def _name(self, path: Path) -> str:
        assert self.folder is not None
        return path.relative_to(self.folder).as_posix()

    def _directories(self) -> list[Path]:
        if self.folder is None or not self.folder.is_dir():
            return []
        root = self.folder.resolve()
        levels = [self.folder]
        found_here: list[Path] = []
        for _ in range(DEEPEST + 1):
            below: list[Path] = []
            for path in levels:
                if (path / "manifest.json").is_file() or (path / "report.html").is_file():
                    found_here.append(path)
                    continue
                try:
                    children = sorted(child for child in path.iterdir() if child.is_dir())
                except OSError:
                    continue
                below += [c for c in children if c.resolve().is_relative_to(root)]
            levels = below
        return found_here[:MOST_RESULTS]


def _numbers(path: Path) -> dict[str, Any]:
    """What an experiment measured, as its report has it; or why it cannot be read."""
    from alphaedit.bench.experiments.store import MANIFEST
    from alphaedit.report.results import read

    if not (path / MANIFEST).is_file():
        return {"title": path.name, "groups": []}
    try:
        results = read([path])
    except (AlphaEditError, OSError, KeyError, ValueError, TypeError) as error:
        return {"title": path.name, "groups": [], "problem": str(error)}
    return {
        "title": path.name,
        "groups": [
            {
                "title": group.title,
                "columns": [
                    {
                        "label": column.label,
                        "edits": column.edits,
                        "error": column.error,
                        "numbers": {n: rate.to_json() for n, rate in column.numbers.items()},
                    }
                    for column in group.columns
                ],
            }
            for result in results
            for group in result.groups
        ],
    }
