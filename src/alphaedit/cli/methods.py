"""`alphaedit methods`."""

from __future__ import annotations

from typing import Any

from alphaedit.cli import options
from alphaedit.cli.options import examples
from alphaedit.cli.output import output_console

EXAMPLES = examples("alphaedit methods", "alphaedit methods --json")


def list_methods(json: options.Json = False, debug: options.Debug = False) -> dict[str, Any]:
    """List the editing methods with their papers."""
    from alphaedit.methods.registry import methods

    rows = [
        {"name": m.name, "title": m.title, "paper": m.paper, "summary": m.summary}
        for m in methods().values()
    ]
    if not json:
        from rich.table import Table

        table = Table("name", "method", "what it does")
        for row in rows:
            table.add_row(row["name"], f"{row['title']}\n[dim]{row['paper']}[/]", row["summary"])
        output_console().print(table)
    return {"methods": rows}
