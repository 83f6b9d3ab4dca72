"""By what we know our own files again: a manifest in folders, a line in single files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePath

MANIFEST = "alphaedit.json"
LARGEST = 1 << 24
"""Bytes of a manifest; a file with more is none."""
CREATED = "Created by alphaedit"
HTML = f'<meta name="generator" content="{CREATED}">'
XML = f"<!-- {CREATED} -->"
YAML = f"# {CREATED}\n"
JSON = ("creator", CREATED)
PICTURE: Mapping[str, Mapping[str, str | None]] = {
    ".svg": {"Creator": CREATED, "Date": None},
    ".png": {"Software": CREATED},
    ".pdf": {"Creator": CREATED},
}
"""What matplotlib is to write into a picture, by its ending."""
_SIGNS = (
    HTML,
    XML,
    YAML,
    f'"{JSON[0]}": "{CREATED}"',
    f"<dc:title>{CREATED}</dc:title>",
    f"Software\0{CREATED}",
    f"/Creator ({CREATED})",
)
_FACT = re.compile(r"[^\t]+\tP[0-9]+\t[^\t]+")
_NEAR = 1 << 14
"""Bytes at either end of a file in which its mark lies."""


@dataclass(frozen=True)
class Manifest:
    """What we wrote into a folder.

    Attributes:
        kind: checkpoint, adapter or delta.
        files: SHA-256 of the files, by their paths in the folder.
    """

    kind: str
    files: Mapping[str, str]

    def unchanged(self, folder: Path, name: str) -> bool:
        """Whether a file of `folder` is as we wrote it."""
        path = folder / name
        if name not in self.files or path.is_symlink() or not path.is_file():
            return False
        # Through a link the file would be another folder's.
        if not path.resolve().is_relative_to(folder.resolve()):
            return False
        return digest(path) == self.files[name]

    def changed(self, folder: Path) -> list[str]:
        """Files that we wrote into `folder`, are still there, and are not as we wrote them."""
        there = [name for name in self.files if _there(folder / name)]
        return sorted(name for name in there if not self.unchanged(folder, name))


def _there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    hasher = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder; None if there is none that could be ours."""
    path = folder / MANIFEST
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        kind, files = data["kind"], data["files"]
        if "alphaedit" not in data or not isinstance(kind, str) or not isinstance(files, dict):
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(inside(name) and isinstance(checksum, str) for name, checksum in files.items()):
        return None
    return Manifest(kind, files)


def inside(name: str) -> bool:
    """Whether a path that anyone may have written, as in a manifest, stays in its folder."""
    path = PurePath(name)
    return not (path.drive or path.root or ".." in path.parts or "\0" in name)


def write_manifest(folder: Path, kind: str) -> None:
    """Write the manifest of all files in `folder`.

    Raises:
        OSError: a file cannot be read, or the manifest not be written.
    """
    from importlib.metadata import version

    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): digest(path) for path in paths}
    files.pop(MANIFEST, None)
    data = {"alphaedit": version("alphaedit"), "kind": kind, "files": files}
    (folder / MANIFEST).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def is_ours(path: Path) -> bool:
    """Whether a single file says in its text or metadata that we made it."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with open(path, "rb") as file:
            near = file.read(_NEAR)
            file.seek(max(0, path.stat().st_size - _NEAR))
            near += file.read(_NEAR)
    except OSError:
        return False
    return any(sign.encode() in near for sign in _SIGNS)


def alike(path: Path, text: str) -> bool:
    """Whether a file of data, which has no room for a mark, could be an earlier version of `text`.

    Records have the same fields, rows of the world's facts the same form, and other text begins
    with the same line.
    """
    try:
        existing = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    first, new = (each.partition("\n")[0] for each in (existing, text))
    if text[:1] not in ("[", "{"):
        return first == new or bool(_FACT.fullmatch(first) and _FACT.fullmatch(new))
    try:
        if text[0] == "{":  # JSON Lines
            existing, text = f"[{first}]", f"[{new}]"
        return bool(json.loads(existing)[0].keys() == json.loads(text)[0].keys())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False
