"""A directory of results that is whole at any moment: numbers as JSON Lines, the rest beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from alphaedit.bench.experiments.cells import Cell
from alphaedit.bench.experiments.spec import Spec
from alphaedit.core.errors import DataError
from alphaedit.core.files import write_text

MANIFEST = "manifest.json"
FORMAT = 1
Row = dict[str, Any]


class RunDirectory:
    """Where one experiment keeps its results.

    ``manifest.json``: the experiment, command, versions, machine. ``cells/ID/cell.json``: what was
    run and how far; ``rows-N.jsonl``: numbers after N edits; ``extra-N.json``: texts and points;
    ``session/``: the edits, while a run is under way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, spec: Spec, about: Mapping[str, Any]) -> None:
        """Make the directory, or check that it holds the same experiment.

        Raises:
            DataError: it holds another experiment, or something else.
        """
        wanted = json.loads(spec.model_dump_json())
        if (self.path / MANIFEST).is_file():
            # Fields that an older manifest does not know had no value but the default.
            defaults = {
                name: field.get_default(call_default_factory=True)
                for name, field in Spec.model_fields.items()
                if not field.is_required()
            }
            stored = {**to_jsonable_python(defaults), **self.manifest()["experiment"]}
            different = sorted(k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k))
            if different:
                raise DataError(
                    f"{self.path} holds results of another configuration: "
                    f"{', '.join(different)} differ.",
                    remedy="Choose another directory, or give the same settings to go on.",
                )
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise DataError(
                f"{self.path} is not empty and holds no {MANIFEST}.",
                remedy="Choose another directory.",
            )
        self.write(MANIFEST, {"format": FORMAT, "experiment": wanted, **about})

    def manifest(self) -> dict[str, Any]:
        """What was run, and where.

        Raises:
            DataError: it is missing, broken, or of another format.
        """
        path = self.path / MANIFEST
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise DataError(f"{path} has format {data['format']}, this version reads {FORMAT}.")
            _ = data["experiment"]["name"]
        except FileNotFoundError:
            raise DataError(
                f"{self.path} is no directory of results: {MANIFEST} is missing.",
                remedy="Give the directory that `alphaedit experiment` wrote.",
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} cannot be read: {error!r}.", remedy="Run the experiment again."
            ) from None
        return data

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        write_text(json.dumps(dict(data), indent=1, ensure_ascii=False) + "\n", self.path / name)

    def folder(self, cell: Cell) -> Path:
        """Where a cell keeps its results."""
        return self.path / "cells" / cell.id

    def state(self, cell: Cell) -> dict[str, Any]:
        """What is known of a cell; empty before it began."""
        path = self.folder(cell) / "cell.json"
        if not path.is_file():
            return {}
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return data

    def set_state(self, cell: Cell, state: Mapping[str, Any]) -> None:
        """Keep what is known of a cell."""
        self.write(f"cells/{cell.id}/cell.json", {**cell.tags, **state})

    def measured(self, cell: Cell, edits: int) -> bool:
        """Whether the numbers after `edits` edits are there."""
        return (self.folder(cell) / f"rows-{edits:06d}.jsonl").is_file()

    def add(
        self, cell: Cell, edits: int, rows: Sequence[Row], extra: Mapping[str, Any] | None
    ) -> None:
        """Keep numbers, and what is not a number; the former last, as they say all is there."""
        folder = self.folder(cell)
        if extra:
            self.write(f"cells/{cell.id}/extra-{edits:06d}.json", extra)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(text, folder / f"rows-{edits:06d}.jsonl")

    def rows(self) -> list[Row]:
        """All numbers, in the order of cells' names and edits.

        Raises:
            DataError: a file is broken.
        """
        rows: list[Row] = []
        for path in sorted(self.path.glob("cells/*/rows-*.jsonl")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"{path}, line {number}: {error}.",
                        remedy="Remove the file and run the experiment again: it goes on there.",
                    ) from None
        return rows

    def cells(self) -> list[dict[str, Any]]:
        """What is known of all cells that began."""
        paths = sorted(self.path.glob("cells/*/cell.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def extras(self, cell: str) -> dict[int, dict[str, Any]]:
        """What is not numbers of a cell, by edits."""
        by_edits = {}
        for path in sorted((self.path / "cells" / cell).glob("extra-*.json")):
            by_edits[int(path.stem.removeprefix("extra-"))] = json.loads(
                path.read_text(encoding="utf-8")
            )
        return by_edits

    def finished(self) -> bool:
        """Whether every cell that began has ended, and there is one."""
        states = self.cells()
        return bool(states) and all(state.get("finished") for state in states)
