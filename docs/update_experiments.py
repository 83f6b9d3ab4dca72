"""Put figures and pictures of a run of all experiments into docs/experiments.md.

    make experiments && .venv/bin/python docs/update_experiments.py results

Rows and columns are those that the page has; what is written between the tables stays, and has to
be read again beside the new figures.
"""

import re
import shutil
import sys
from pathlib import Path

from alphaedit.report.experiment import report
from alphaedit.report.results import FINE, Group, Results, ranks, read

PAGE = Path(__file__).parent / "experiments.md"
PICTURES = PAGE.with_suffix("")


def row(line: str, names: list[str], group: Group) -> str:
    """The line of a table with new figures; the best of each column in bold."""
    label = line.split("|")[1].strip()
    column = next((c for c in group.columns if c.label == label), None)
    if column is None:
        raise SystemExit(f"{group.title}: no {label!r} among {[c.label for c in group.columns]}")
    cells = []
    for name in names:
        rate = column.numbers.get(name)
        digits = 3 if name in FINE else 1
        text = "-" if rate is None else f"{rate.value:.{digits}f}"
        best = column in group.edited and ranks(group.edited, name).get(label) == 1
        cells.append(f"**{text}**" if best and rate is not None else text)
    return f"| {label} | {' | '.join(cells)} |"


def section(text: str, results: Results) -> str:
    """A section of the page with new figures."""
    lines, names, title = [], [], ""
    spec = results.spec
    size = f"{spec['edits']} edits in batches of {spec['batch_size']}."
    for line in re.sub(r"\d+ edits in batches of \d+\.", size, text).splitlines():
        heading = re.fullmatch(r"\*\*(.*)\*\*", line)
        title = heading[1] if heading else title
        if line.startswith("| |"):
            names = [cell.strip().replace(" ", "_") for cell in line.strip("|").split("|")[1:]]
        elif line.startswith("| "):
            group = next(g for g in results.groups if g.title == title or not title)
            line = row(line, names, group)
        lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Update the page from the directory that is named."""
    root = Path(sys.argv[1])
    found = {r.spec["name"]: r for r in read(sorted(p for p in root.iterdir() if p.is_dir()))}
    report([r.path for r in found.values()], root / "report.html")
    parts = re.split(r"(?m)^(?=## )", PAGE.read_text(encoding="utf-8"))
    for index, part in enumerate(parts):
        name = part.removeprefix("## ").partition(":")[0]
        if name in found:
            parts[index] = section(part, found[name])
            for picture in sorted((found[name].path / "pictures").glob("*.svg")):
                if f"{name}-{picture.stem}" in part:
                    shutil.copy(picture, PICTURES / f"{name}-{picture.name}")
    PAGE.write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
