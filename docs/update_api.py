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
from alphaedit import errors
from alphaedit.methods import plugin, registry
from alphaedit.methods.base import Method
from alphaedit.methods.config import Settings

PAGE = Path(__file__).with_name("api.md")
HEAD = """# The Python API

Made from the docstrings by `docs/update_api.py`; [python.md](python.md) shows how it is used. The
names below are imported from `alphaedit`; errors and warnings from `alphaedit.errors`, methods from
`alphaedit.methods`, plug-ins from `alphaedit.plugins`. Every error is an `AlphaEditError` with
`message` and `remedy`. Progress shows as bars in terminals and notebooks unless `progress=False`;
what happens is logged under the name `alphaedit` by the standard `logging` module.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    special = {"errors": _errors, "methods": _methods, "plugins": _plugins}
    for name in alphaedit.__all__:
        thing = getattr(alphaedit, name)
        parts.append(f"## {name}\n")
        if name in special:
            parts += special[name]()
        elif thing is errors.AlphaEditError:
            parts.append(_doc(thing))
        elif inspect.isclass(thing):
            parts.append(_doc(thing))
            parts += [_member(name, member, value) for member, value in _members(thing)]
        else:
            parts.append(f"```python\n{_signature(name, thing)}\n```\n")
            parts.append(_doc(thing))
    return "\n".join(parts).rstrip() + "\n"


def _errors() -> list[str]:
    """The tree of errors and warnings, each with what it says of itself."""
    return [_doc(errors), *_tree(errors.AlphaEditError, 0), *_tree(errors.AlphaEditWarning, 0), ""]


def _tree(kind: type, depth: int) -> list[str]:
    first = (inspect.getdoc(kind) or "").split("\n\n")[0]
    rows = [f"{'  ' * depth}- `{kind.__name__}`: {' '.join(first.split())}"]
    for below in sorted(kind.__subclasses__(), key=lambda found: found.__name__):
        if below.__name__ in errors.__all__:
            rows += _tree(below, depth + 1)
    return rows


def _methods() -> list[str]:
    """Each method of the package (not of others that are installed), and its settings."""
    own = list(registry._own().values())
    rows = ["| object | name | settings | with other defaults |", "|---|---|---|---|"]
    for method in own:
        other = ", ".join(f"`{name}={value!r}`" for name, value in method.defaults.items())
        name = f"`{method.object_name}`"
        rows.append(f"| {name} | `{method.name}` | `{method.config.__name__}` | {other} |")
    about = "```python\nmethods() -> dict[str, Method]\n```\n"
    parts = [about, _doc(alphaedit.methods), _doc(Method.__call__), *rows, ""]
    for config in dict.fromkeys(kind for m in own for kind in reversed(_configs(m.config))):
        parts.append(f"**`{config.__name__}`**{_based(config)}\n")
        for field in config.__annotations__:
            if field in config.model_fields:
                parts.append(_setting(config, field))
        parts.append("")
    return parts


def _configs(config: type) -> list[type]:
    return [kind for kind in config.__mro__ if issubclass(kind, Settings)]


def _based(config: type) -> str:
    base = config.__mro__[1]
    return f": these besides those of `{base.__name__}`" if issubclass(base, Settings) else ""


def _setting(config: Any, field: str) -> str:
    info = config.model_fields[field]
    default = "" if info.is_required() else f" = {info.get_default()!r}"
    return f"- `{field}: {config.__annotations__[field]}{default}`: {info.description}"


def _plugins() -> list[str]:
    """Each plug-in of the package as an object, with its options."""
    parts = ["```python\nplugins() -> dict[str, type[Plugin]]\n```\n", _doc(alphaedit.plugins)]
    for name, kind in plugin._own().items():
        options = ", ".join(f"{k}={v!r}" for k, v in plugin.options_of(kind).items())
        parts.append(f"- `{kind.__name__}({options})`: {kind.title}, as text `{name}`.")
    return [*parts, ""]


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
