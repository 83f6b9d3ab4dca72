"""Run notebooks from top to bottom, and store what they show.

    python examples/notebooks/run.py [NOTEBOOK ...]

All cells run in this process, each notebook in an empty folder. What a notebook server would show
is stored: what is printed, and the value of a cell's last line.
"""

import ast
import base64
import io
import json
import os
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def shown(value: Any) -> dict[str, Any] | None:
    """A value as a notebook shows it: picture, table or text."""
    if value is None:
        return None
    data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "savefig"):
        stream = io.BytesIO()
        value.savefig(stream, format="png", dpi=80, metadata={"Software": None})
        data["image/png"] = base64.b64encode(stream.getvalue()).decode()
    elif hasattr(value, "_repr_html_"):
        data["text/html"] = [value._repr_html_()]
    return data


def run_cell(code: str, names: dict[str, Any], where: str) -> tuple[str, dict[str, Any] | None]:
    """What a cell prints, and its last value as it is shown."""
    tree = ast.parse(code, where)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr) and not code.rstrip().endswith(";"):
        last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, where, "exec"), names)
        value = eval(compile(last, where, "eval"), names) if last else None
    return printed.getvalue(), shown(value)


def run(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The notebook with its outputs, and the names that its cells leave.

    Raises:
        Exception: what a cell raises; the file and cell stand in its traceback.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for number, cell in enumerate(notebook["cells"], start=1):
            if cell["cell_type"] != "code":
                continue
            count += 1
            code = "".join(cell["source"])
            printed, data = run_cell(code, names, f"{path.name}, cell {number}")
            cell["execution_count"], cell["outputs"] = count, []
            if printed:
                lines = printed.splitlines(keepends=True)
                cell["outputs"].append({"name": "stdout", "output_type": "stream", "text": lines})
            if data:
                cell["outputs"].append(
                    {
                        "data": data,
                        "execution_count": count,
                        "metadata": {},
                        "output_type": "execute_result",
                    }
                )
    return notebook, names


def main() -> None:
    """Run those that are named, or all, and write them."""
    os.environ.setdefault("MPLBACKEND", "agg")
    for path in [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        notebook, _ = run(path.resolve())
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        print(f"{path.name}: {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
