"""Second moments and spectra on disk: written whole or not at all, read only where they belong."""

from __future__ import annotations

import json
import tempfile
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alphaedit.core.cache import VARIABLE, default_dir
from alphaedit.core.errors import CacheWarning, ConfigError, ResourceError
from alphaedit.core.files import whole_file, write_text


class MomentCache:
    """Tensors under a key of named parts (model, layer, corpus, tokens, kind).

    The file's name is a hash of the key, and the key itself lies in the file: one that was renamed,
    swapped or damaged is not used, and what it held is computed again. Where nothing can be
    written, nothing is kept. A warning tells of both.

    Raises:
        ConfigError: `folder` is a file.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        if folder is not None and not isinstance(folder, (str, Path)):
            raise ConfigError(f"cache_dir is {type(folder).__name__}.", remedy="Give a directory.")
        self.folder = Path(folder) if folder is not None else default_dir()
        if folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(
                f"The cache directory {folder} is a file.", remedy="Give a directory, or none."
            )
        self._told = False

    def writable(self) -> bool:
        """Whether files can be made there; a warning says once why not."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                return True
        except OSError as error:
            self._tell(f"{self.folder} cannot be written ({error.strerror or error})")
            return False

    def _tell(self, what: str) -> None:
        if self._told:
            return
        self._told = True
        warnings.warn(
            CacheWarning(
                f"{what}: statistics are computed, but not kept for next time. Give another cache "
                f"directory (--cache-dir, or {VARIABLE}), or free some space."
            ),
            stacklevel=3,
        )

    def path(self, key: dict[str, str]) -> Path:
        """Where the tensors of `key` lie."""
        digest = sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
        return self.folder / f"{key.get('kind', 'moment')}-{digest}.safetensors"

    def load(self, key: dict[str, str]) -> dict[str, Tensor] | None:
        """The tensors of `key`, or None if there are none, or none of use."""
        path = self.path(key)
        try:
            if not path.is_file():
                return None
            with safe_open(path, framework="pt") as file:
                stored = json.loads((file.metadata() or {}).get("key", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError, ValueError) as error:
            self._useless(path, f"is damaged ({error})")
            return None
        if stored != key:
            self._useless(path, "holds statistics of something else")
            return None
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            self._useless(path, "holds NaN or infinity")
            return None
        return tensors

    def _useless(self, path: Path, what: str) -> None:
        warnings.warn(
            CacheWarning(f"{path} {what}: what it should hold is computed again."), stacklevel=3
        )

    def save(self, key: dict[str, str], tensors: dict[str, Tensor]) -> None:
        """Write the tensors of `key`, all or nothing; a warning tells where that failed."""
        path = self.path(key)
        own = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        try:
            with whole_file(path) as part:
                save_file(own, part, {"key": json.dumps(key)})
        except ResourceError as error:
            self._tell(f"{path} cannot be written ({error.__cause__ or error.message})")

    def load_json(self, key: dict[str, str]) -> dict[str, Any] | None:
        """Plain values kept under `key`, or None."""
        path = self.path(key).with_suffix(".json")
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            if entry["key"] == key and isinstance(entry["values"], dict):
                return dict(entry["values"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def save_json(self, key: dict[str, str], values: dict[str, Any]) -> None:
        """Keep plain values under `key`; a warning tells where that failed."""
        path = self.path(key).with_suffix(".json")
        try:
            write_text(json.dumps({"key": key, "values": values}, indent=1) + "\n", path)
        except ResourceError as error:
            self._tell(error.message.rstrip("."))
