"""Where a model is, and what is seen of it before anything is built."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from safetensors import SafetensorError, safe_open

from alphaedit.core.errors import ModelError, nearest
from alphaedit.model.gguf_file import is_gguf

BUNDLED = "bundled"
MOST_LAYERS = 4096
MOST_OF_ANYTHING = 1 << 20
LARGEST_TEXT = 1 << 28
"""Bytes of a file that is read whole, such as tokenizer.json; the largest known has 40 million."""
WEIGHTS = (".safetensors", ".bin")
_TEXTS = (".json", ".jinja", ".model", ".py", ".tiktoken", ".txt")
_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_LAYERS = re.compile(r"(^|_)layers?$|^(n|num)_.*(layer|block)|depth$|^attention_types$")
_COUNTS = re.compile(r"^(n|num)_(?!.*(position|ctx|context|vocab|token|param))")
_TENSORS = re.compile(r"(model|shard|adapter_model)\b.*\.safetensors$")
_POINTER = b"version https://git-lfs"
_AGAIN = "Download or save the model again."


def resolve(source: str, *, weights: bool = True) -> tuple[str, bool]:
    """Where to read `source` from, and whether that is a local directory.

    A GGUF file is converted, unless that was done before.

    Args:
        source: a directory, a GGUF file, a hub name, or the name of a bundled model.
        weights: they will be read, and not the config and tokenizer alone.

    Raises:
        ModelError: `source` is a path with no model, or nearly the name of a bundled one.
    """
    from alphaedit.world.asset import NAMES, path

    if source in NAMES:
        return str(path(source)), True
    try:
        folder = Path(source).expanduser()
        if source.strip() and folder.is_dir():
            return _with_config(source, folder), True
        is_file = folder.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, of an unknown user, with a NUL
        folder, is_file = Path(source), False
    if is_file and is_gguf(source):
        from alphaedit.model import gguf

        return str(gguf.converted(folder) if weights else gguf.described(folder)), True
    if is_file:
        raise ModelError(
            f"{source} is a file.", remedy="Give the model's directory, or a file NAME.gguf."
        )
    close = nearest(source, NAMES) if "/" not in source else []
    if close:
        raise ModelError(
            f"There is no model {source!r}.",
            remedy=f"Did you mean {' or '.join(map(repr, close))}?",
        )
    if not source.strip() or not source.isprintable() or _looks_like_path(source, folder):
        raise ModelError(
            f"There is no model at {source if source.isprintable() and source else repr(source)}.",
            remedy="Give a model directory, a .gguf file, a hub name (owner/name), or 'bundled'.",
        )
    return source, False


def _with_config(source: str, folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{source} is not a model directory: it has no config.json.",
            remedy="Give a directory written by save_pretrained.",
        )
    return str(folder)


def _looks_like_path(source: str, folder: Path) -> bool:
    if source.startswith((".", "~")) or folder.is_absolute() or "\\" in source:
        return True
    return source.count("/") > 1 or ("/" in source and folder.parent.is_dir())


def check_files(folder: Path) -> None:
    """Refuse a model's directory in which reading a file could wait for ever, or take all memory.

    Raises:
        ModelError: naming the file.
    """
    for file in (*_entries(folder), *_entries(folder / "additional_chat_templates")):
        if _bytes(file) > LARGEST_TEXT and file.suffix in _TEXTS:
            raise ModelError(
                f"{file} has {_bytes(file):,} bytes, which no file of its kind has.",
                remedy=_AGAIN,
            )
    for name in _INDEX:
        _check_index(folder / name)


def check_headers(folder: Path) -> None:
    """Read what stands in front of the tensors: what fails on it later does not name the file.

    Raises:
        ModelError: naming the file.
    """
    for file in _entries(folder):
        if _TENSORS.match(file.name) and file.is_file():
            try:
                with safe_open(file, framework="pt"):
                    pass
            except (SafetensorError, OSError) as error:
                with file.open("rb") as start:
                    pointer = start.read(len(_POINTER)) == _POINTER
                if pointer:
                    raise ModelError(
                        f"{file} is a pointer of Git LFS, not the weights.",
                        remedy="Fetch them: git lfs pull.",
                    ) from None
                raise ModelError(f"{file} cannot be read: {error}.", remedy=_AGAIN) from error


def _bytes(file: Path) -> int:
    """The size of a file; 0 of a directory, and where there is nothing.

    Raises:
        ModelError: it is neither.
    """
    try:
        about = file.stat()
    except (OSError, ValueError):  # also a link to nothing, and what is no name of a file
        return 0
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
        raise ModelError(
            f"{file} is neither a file nor a directory, and was not read.",
            remedy="Put the model's own file there.",
        )
    return about.st_size if stat.S_ISREG(about.st_mode) else 0


def _entries(folder: Path) -> list[Path]:
    try:
        if not folder.is_dir():
            return []
        return sorted(f for f in folder.iterdir() if f.suffix in (*_TEXTS, *WEIGHTS))
    except OSError as error:
        raise ModelError(
            f"{folder} cannot be read: {error.strerror or error}.", remedy="Check its permissions."
        ) from error


def _check_index(file: Path) -> None:
    """Refuse shards that lie elsewhere, or cannot be read to an end."""
    try:
        index = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, RecursionError):  # reading the weights says what is the matter
        return
    shards = index.get("weight_map") if isinstance(index, dict) else None
    for shard in shards.values() if isinstance(shards, dict) else ():
        _check_inside(file, shard)


def _check_inside(file: Path, name: Any) -> None:
    path = PurePath(name) if isinstance(name, str) else None
    if path is None or path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise ModelError(
            f"{file} names {name!r} as a file of weights, which is not in its directory.",
            remedy=_AGAIN,
        )
    _bytes(file.parent / path)


def weight_bytes(folder: Path) -> int:
    """Bytes of all files of weights in a directory."""
    return sum(f.stat().st_size for f in _entries(folder) if f.suffix in WEIGHTS and f.is_file())


def check_config(config: Any, source: str, *, trust_remote_code: bool) -> None:
    """Refuse a config, as it was read, that asks for what no model has, or for foreign code.

    Libraries make lists as long as it says while they read it, before any weight is looked at.

    Raises:
        ModelError: naming the field.
    """
    if not isinstance(config, dict):
        raise ModelError(f"The config of {source} is no JSON object.", remedy=_AGAIN)
    if "transformers_weights" in config:
        _check_inside(Path(source) / "config.json", config["transformers_weights"])
    for name, value in _values(config):
        if isinstance(value, int) and not isinstance(value, bool):
            most = MOST_LAYERS if _LAYERS.search(name) else MOST_OF_ANYTHING
            if value > most and (most == MOST_LAYERS or _COUNTS.search(name)):
                raise ModelError(
                    f"The config of {source} asks for {value:.3g} as {name}: no model has more "
                    f"than {most:,}.",
                    remedy=f"The config is damaged, or of something else. {_AGAIN}",
                )
        elif isinstance(value, str) and name.endswith("_implementation") and "/" in value:
            if not trust_remote_code:
                raise needs_code(f"The config of {source} ({name}: {value!r})")


def _values(config: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """All values in a config that are no containers, under the name of their field."""
    left: list[tuple[str, Any]] = [(str(name), value) for name, value in config.items()]
    while left:
        name, value = left.pop()
        if isinstance(value, dict):
            left += [(str(key), item) for key, item in value.items()]
        elif isinstance(value, list):
            left += [(name, item) for item in value]
        else:
            yield name, value


def needs_code(what: str) -> ModelError:
    """The error for a model that comes with code of its own."""
    return ModelError(
        f"{what} needs code that comes with the model, which was not run.",
        remedy="That code would have all the rights that you have. If you have read it and trust "
        "it, give --trust-remote-code (Python: trust_remote_code=True).",
    )
