"""Write docs/errors.md: every error of the package, with its remedy, from the code that raises it.

.venv/bin/python docs/update_errors.py [--check]
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from alphaedit import errors

PAGE = Path(__file__).with_name("errors.md")
SOURCE = Path(__file__).resolve().parents[1] / "src" / "alphaedit"
HEAD = """# Errors, and what to do about them

Every error is an `AlphaEditError` that says what is wrong, where, and what to do; `alphaedit`
prints both and exits with a code other than 0. `…` stands for what differs from case to case: look
for the words that do not. This page is made from the code by `docs/update_errors.py`.
"""
GAP = "…"


def page() -> str:
    """The whole page: errors by class, base classes first."""
    rows = sorted(set(raised()))
    by_class: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, message, remedy in rows:
        by_class[name].append((message, remedy))
    parts = [HEAD]
    for name in errors.__all__:
        if name not in by_class:
            continue
        doc = (inspect.getdoc(getattr(errors, name)) or "").split("\n\n")[0]
        parts.append(f"## {name}\n\n{' '.join(doc.split())}\n\n| message | remedy |\n|---|---|")
        parts += [f"| {_cell(message)} | {_cell(remedy)} |" for message, remedy in by_class[name]]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def raised() -> Iterator[tuple[str, str, str]]:
    """Class, message and remedy of each error that is made somewhere with words of its own."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = dict(_constants(tree))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if not node.func.id.endswith("Error") or node.func.id not in errors.__all__:
                continue
            message = words(node.args[0], constants) if node.args else GAP
            given = {k.arg: words(k.value, constants) for k in node.keywords if k.arg}
            if message.replace(GAP, "").strip(" .:,"):
                yield node.func.id, message, given.get("remedy", "")


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Texts that a module has names for."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if isinstance(node.value, (ast.Constant, ast.JoinedStr)):
                yield node.targets[0].id, node.value


def words(node: ast.expr, constants: dict[str, ast.expr]) -> str:
    """What is known of a text before it is made, gaps where the rest will stand."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else GAP
    if isinstance(node, ast.JoinedStr):
        return "".join(words(part, constants) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return words(node.left, constants) + words(node.right, constants)
    if isinstance(node, ast.Name) and node.id in constants:
        return words(constants[node.id], constants)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr == "format":
            return words(node.func.value, constants)
    return GAP


def _cell(text: str) -> str:
    """A text inside a table."""
    flat = " ".join(text.split())
    for mark in ("\\", "|", "<", ">", "*", "_", "`", "[", "]", "{", "}"):
        flat = flat.replace(
            mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark]
        )
    return flat


def main() -> int:
    """Write the page, or say whether it is as it should be."""
    text = page()
    if "--check" in sys.argv[1:]:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("docs/errors.md is up to date." if same else "Run docs/update_errors.py.")
        return not same
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE.name}: {len(set(raised()))} errors.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
