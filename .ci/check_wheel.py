"""Check what a wheel holds, before anybody installs it.

.ci/check_wheel.py dist/alphaedit-1.2.3-py3-none-any.whl
"""

import sys
import zipfile
from pathlib import Path

MOST_MB = 40
WANTED = (
    "alphaedit/py.typed",
    "alphaedit/methods/presets.yaml",
    "alphaedit/cli/app.py",
    "alphaedit/server/page/index.html",
    "alphaedit/server/page/app.js",
)
UNWANTED = ("tests/", "benchmarks/", "docs/", ".models", "__pycache__", ".pt", ".pkl", ".bin")


def problems(path: Path) -> list[str]:
    """What is wrong with a wheel."""
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        points = next((n for n in names if n.endswith(".dist-info/entry_points.txt")), None)
        text = wheel.read(points).decode("utf-8") if points else ""
    wrong = [f"{name} is missing" for name in WANTED if name not in names]
    wrong += [
        f"{name} should not be there"
        for name in names
        if any(name.startswith(bad) or name.endswith(bad) or f"/{bad}" in name for bad in UNWANTED)
    ]
    if "alphaedit = alphaedit.cli.app:main" not in text:
        wrong.append("the command alphaedit is no entry point")
    size = path.stat().st_size / 1e6
    if size > MOST_MB:
        wrong.append(f"it has {size:.0f} MB, more than {MOST_MB}")
    return wrong


if __name__ == "__main__":
    wheels = [Path(name) for name in sys.argv[1:]]
    wrong = [f"{path.name}: {what}" for path in wheels for what in problems(path)]
    print("\n".join(wrong) or f"{', '.join(path.name for path in wheels)}: as it should be.")
    sys.exit(bool(wrong) or not wheels)
