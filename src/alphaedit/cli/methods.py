"""`alphaedit methods`."""

from __future__ import annotations

from rich.table import Table

from alphaedit.cli import common


def methods(json: common.JsonOption = False) -> None:
    """List the editing methods with their papers.

    [bold]Examples[/]

    alphaedit methods

    alphaedit methods --json
    """
    from alphaedit.methods.registry import methods as known

    rows = [
        {"name": m.name, "title": m.title, "paper": m.paper, "summary": m.summary}
        for m in known().values()
    ]
    if json:
        common.emit({"methods": rows})
        return
    table = Table("name", "what it solves", "paper")
    for row in rows:
        table.add_row(row["name"], row["summary"], row["paper"])
    common.out.print(table)
