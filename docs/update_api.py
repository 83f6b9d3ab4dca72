"""Write docs/api.md from the docstrings of the public names.

.venv/bin/python docs/update_api.py [--check]
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import alphaedit
from alphaedit.core import errors

PAGE = Path(__file__).with_name("api.md")
HEAD = """# The Python API

Made from the docstrings by `docs/update_api.py`. The names below are imported from `alphaedit`;
errors and warnings from `alphaedit.core.errors`. Every error is an `AlphaEditError` with `message`
and `remedy`. Progress shows as bars in terminals and notebooks unless `progress=False`; what
happens is logged under the name `alphaedit` by the standard `logging` module.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name in alphaedit.__all__:
        thing = getattr(alphaedit, name)
        parts.append(f"## {name}\n")
        if inspect.isclass(thing):
            parts.append(_doc(thing))
            parts += [_member(name, member, value) for member, value in _members(thing)]
        else:
            parts.append(f"```python\n{_signature(name, thing)}\n```\n")
            parts.append(_doc(thing))
    parts.append("## Errors\n")
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, (errors.AlphaEditError, Warning)):
            base = kind.__bases__[0].__name__
            first = inspect.getdoc(kind).split("\n\n")[0]
            parts.append(f"- `{name}({base})`: {' '.join(first.split())}")
    return "\n".join(parts).rstrip() + "\n"


def _members(kind: type) -> list[tuple[str, Any]]:
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("alphaedit"):
            found.update(vars(base))
    return [
        (name, value)
        for name, value in found.items()
        if not name.startswith("_")
        and (callable(getattr(value, "__func__", value)) or isinstance(value, property))
    ]


def _member(owner: str, name: str, value: Any) -> str:
    if isinstance(value, property):
        return f"### {owner}.{name}\n\n{_doc(value)}"
    function = getattr(value, "__func__", value)
    return f"### {owner}.{name}\n\n```python\n{_signature(name, function)}\n```\n\n{_doc(function)}"


def _signature(name: str, function: Any) -> str:
    shown = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "...", str(inspect.signature(function)))
    shown = re.sub(r"(: |-> )'([^']*)'", r"\1\2", shown)
    shown = shown.replace("(self, ", "(").replace("(self)", "()").replace("(cls, ", "(")
    if len(name + shown) <= 96:
        return name + shown
    inside, _, after = shown[1:].rpartition(")")
    lines = ",\n".join(f"    {part}" for part in _split(inside))
    return f"{name}(\n{lines},\n){after}"


def _split(text: str) -> list[str]:
    """Parts between commas that are in no brackets."""
    parts, depth, at = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[at:i].strip())
            at = i + 1
    return [*parts, text[at:].strip()]


def _doc(thing: Any) -> str:
    """A docstring, its sections as lists."""
    out: list[str] = []
    for line in (inspect.getdoc(thing) or "").split("\n"):
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields):", line):
            out += [f"**{line[:-1]}**", ""]
        elif re.match(r"    \S", line) and ":" in line and out:
            name, _, rest = textwrap.dedent(line).partition(":")
            out.append(
                f"- `{name}`:{rest}" if " " not in name.replace(", ", "") else f"- {line.strip()}"
            )
        elif line.startswith("    "):
            out.append("  " + line.strip())
        else:
            out.append(line)
    return "\n".join(out) + "\n"


def main() -> int:
    """Write the page, or with --check see whether it is up to date."""
    made = page()
    if "--check" in sys.argv:
        return 0 if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == made else 1
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
