r"""Consoles on which text of others is safe: nothing of it is markup, and nothing moves the cursor.

Every text is shown with control characters escaped, also where a command forgot to; what the
stream's encoding does not have is written otherwise; tables that do not fit become lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from alphaedit.core.text import in_encoding, one_line, visible

NARROW = 60
"""Columns; from there down a table that would be squeezed becomes a list."""
WORD = 12
"""Columns that a cell needs, unless all its words are shorter."""
VERY_WIDE = 100_000


class SafeConsole(Console):
    """A rich console without markup, smileys and highlighting, which escapes what it prints.

    Args:
        stderr: write to standard error, where failures to write are not told: there is nowhere
            to tell them.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)

    def fit(self, text: str) -> str:
        """`text` as it is shown here."""
        return in_encoding(visible(text), self.encoding)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as text; escaped before it is measured."""
        return super().render_str(self.fit(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Segments, of which only those of the console itself may control the terminal."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(self.fit(segment.text), segment.style)

    def print(self, *objects: Any, lines: bool = False, **options: Any) -> None:
        """Print, tables that do not fit as lists.

        Args:
            lines: strings may have several; else a newline in one is shown as an escape, so that
                no text of others can pass for a line of ours.
        """
        shown = [self._shown(item, lines) for item in objects]
        try:
            super().print(*shown, **options)
        except OSError:
            if not self.stderr:
                raise

    def on_broken_pipe(self) -> None:
        """Leave it to the command line as a whole (called where the error is caught)."""
        raise BrokenPipeError

    def _shown(self, item: Any, lines: bool) -> Any:
        if isinstance(item, Table):
            return self._fitting(item)
        return one_line(item) if isinstance(item, str) and not lines else item

    def _fitting(self, table: Table) -> Table | Text:
        natural = self.measure(table, options=self.options.update(width=VERY_WIDE)).maximum
        squeezed = self.width <= NARROW and natural > self.width
        if not squeezed and self._least(table) <= self.width:
            return table
        lines: list[Text] = []
        for line in self._list(table):
            # Lines after the first are set in, as what is in them may look like a name and value.
            first, *more = line.wrap(self, max(self.width - 2, 4)) or [line]
            lines += [first, *(Text("  ").append_text(rest) for rest in more)]
        return Text("\n").join(lines)

    def _least(self, table: Table) -> int:
        """Columns in which a table is still read with ease."""
        total = 1
        for column in table.columns:
            texts = [self._text(cell).plain for cell in (column.header, *column.cells)]
            if column.no_wrap:
                least = max(map(cell_len, texts), default=0)
            else:
                words = (word for text in texts for word in text.split())
                least = min(WORD, max(map(cell_len, words), default=0))
            total += least + 3
        return total

    def _list(self, table: Table) -> Iterator[Text]:
        """The rows of a table as lines of "name: value", an empty line between rows."""
        if table.title:
            yield self._text(table.title, "italic")
        names = [self._text(column.header).plain for column in table.columns]
        cells = zip(*(column.cells for column in table.columns), strict=True)
        for number, row in enumerate(cells):
            if number and len(names) > 1:
                yield Text("")
            for name, cell in zip(names, row, strict=True):
                value = self._text(cell)
                if name and value.plain:
                    yield Text(f"{name}: ").append_text(value)
                elif value.plain:
                    yield value

    def _text(self, cell: Any, style: str = "") -> Text:
        if isinstance(cell, Text):
            return Text(visible(cell.plain), style=cell.style)
        return Text(visible(str(cell)), style=style)
