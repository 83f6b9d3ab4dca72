"""`alphaedit methods`."""

from __future__ import annotations

from typing import Any

from alphaedit.cli import options
from alphaedit.cli.options import examples

EXAMPLES = examples("alphaedit methods", "alphaedit methods --json")


@options.grouped
def list_methods(common: options.Plain) -> dict[str, Any]:
    """List the editing methods and the plug-ins, with their papers.

    Without --method, `edit` takes gated, or alphaedit-weighted where that does not fit
    (docs/best-default.md).
    """
    from alphaedit.methods.plugin import options_of, plugins
    from alphaedit.methods.registry import methods

    listing: dict[str, list[dict[str, Any]]] = {
        "methods": [
            {"name": m.name, "title": m.title, "paper": m.paper, "summary": m.summary}
            for m in methods().values()
        ],
        "plugins": [
            {
                "name": p.name,
                "title": p.title,
                "paper": p.paper,
                "summary": p.summary,
                "options": options_of(p),
            }
            for p in plugins().values()
        ],
    }
    if not common.json:
        from rich.table import Table
        from rich.text import Text

        for kind, rows in listing.items():
            table = Table("name", "method" if kind == "methods" else "plug-in", "what it does")
            for row in rows:
                given = ", ".join(
                    f"{k}={v:g}" if isinstance(v, (int, float)) else k
                    for k, v in row.get("options", {}).items()
                )
                name = Text(row["name"]).append(f"\n{given}" if given else "", "dim")
                title = Text(row["title"]).append(f"\n{row['paper']}", "dim")
                table.add_row(name, title, row["summary"])
            common.session.say(table)
    return listing
