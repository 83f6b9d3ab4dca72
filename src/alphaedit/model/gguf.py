"""Models in GGUF files: read once by transformers, then kept as plain checkpoints.

Quantised weights are written out as float32 (F16 and BF16 files as they are), which loses nothing:
what is edited is what llama.cpp computes with. The checkpoint lies in the cache directory under the
SHA-256 of the file, so that later starts are those of any checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from hashlib import file_digest
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import PreTrainedModel

from alphaedit.core.cache import VARIABLE, default_dir
from alphaedit.core.errors import ConfigError, ModelError, ResourceError
from alphaedit.core.files import atomic_folder
from alphaedit.core.progress import Progress, silent
from alphaedit.model.gguf_file import Header, read_header
from alphaedit.model.gguf_meaning import complete_config, complete_tokenizer, warn_of_unread
from alphaedit.model.told import told

ORIGIN = "gguf.json"
"""File of a converted checkpoint that names the GGUF file."""
CONVERSION = 1
"""Goes up when the same file gives another checkpoint."""
_SAMPLE = "The mother tongue of Danielle Darrieux is French; she was born in 1917."
_ORIGINAL = "Give the model's original checkpoint, with tokenizer.json."


def header_of(path: Path) -> Header:
    """The header of the GGUF file at `path`.

    Raises:
        ConfigError: the gguf package is not installed.
        ModelError: it is no whole GGUF file.
    """
    require()
    from gguf.constants import GGML_QUANT_SIZES

    return read_header(path, {int(kind): size for kind, size in GGML_QUANT_SIZES.items()})


def require() -> None:
    """Refuse to go on without the packages that read GGUF files.

    Raises:
        ConfigError: one is not installed.
    """
    lacking = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if lacking:
        raise ConfigError(
            f"GGUF files need {' and '.join(lacking)}, which is not installed.",
            remedy="pip install 'alphaedit[gguf]'",
        )


def converted(path: Path, progress: Progress = silent) -> Path:
    """The checkpoint made of the GGUF file at `path`; made now if it never was.

    Raises:
        ConfigError: a package that is needed is not installed.
        ModelError: the file is not whole, of a family that transformers does not read, or its
            tokenizer cannot be rebuilt.
        ResourceError: memory or disk does not suffice; nothing is left behind.
    """
    header = header_of(path)
    folder = _place(path)
    if (folder / ORIGIN).is_file():
        return folder
    with _locked(folder):
        if not (folder / ORIGIN).is_file():
            convert(path, folder, progress, header=header)
    return folder


def described(path: Path) -> Path:
    """A directory with config and tokenizer of the GGUF file; its weights are not read.

    Raises:
        ConfigError, ModelError, ResourceError: as for `converted`.
    """
    header = header_of(path)
    whole = _place(path)
    if (whole / ORIGIN).is_file():
        return whole
    folder = whole.with_name(whole.name + "-described")
    if not (folder / ORIGIN).is_file():
        with _locked(folder), atomic_folder(folder) as part:
            _describe(path, header, part)
            _sign(path, part)
    return folder


def convert(
    path: Path, folder: Path, progress: Progress = silent, *, header: Header | None = None
) -> None:
    """Write the GGUF file at `path` as a checkpoint into `folder`, all or nothing.

    Raises:
        ConfigError, ModelError, ResourceError: as for `converted`.
    """
    header = header or header_of(path)
    phase = f"GGUF to checkpoint, kept in {folder}"
    progress(phase, 0, 3)
    with atomic_folder(folder, last=ORIGIN) as part:
        config = _describe(path, header, part)
        progress(phase, 1, 3)
        model = _read_model(path, header, config)
        progress(phase, 2, 3)
        with _without_bars():
            model.save_pretrained(part)
        _sign(path, part)
    progress(phase, 3, 3)


def origin(folder: str | Path) -> Path | None:
    """The GGUF file that the checkpoint in `folder` was converted from, if it is still there."""
    try:
        named = json.loads((Path(folder).expanduser() / ORIGIN).read_text(encoding="utf-8"))
        path, digest = Path(named["file"]), str(named["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if path.is_file() and sha256(path) == digest else None


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    status = path.stat()
    return _sha256(str(path.resolve()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _sha256(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def in_cache(folder: Path) -> bool:
    """Whether a checkpoint is what a GGUF file became that was named as the model."""
    return folder.resolve().parent == _cache().resolve()


def _cache() -> Path:
    return default_dir() / "gguf"


def _place(path: Path) -> Path:
    return _cache() / f"{path.stem}-{sha256(path)[:16]}-{CONVERSION}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from making the same folder at the same time."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise ResourceError(
            f"Cannot write {folder.parent}: {error.strerror or error}.",
            remedy=f"Set {VARIABLE} to a directory with room for the model in float32.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _sign(path: Path, folder: Path) -> None:
    about = {"file": str(path.resolve()), "sha256": sha256(path), "conversion": CONVERSION}
    (folder / ORIGIN).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _describe(path: Path, header: Header, folder: Path) -> Any:
    """Write config and tokenizer into `folder`; the config."""
    from transformers import AutoConfig, AutoTokenizer

    config = _read(path, header, AutoConfig.from_pretrained)
    config = complete_config(config, header)
    config.dtype = _dtype(header)
    config.save_pretrained(folder)
    tokenizer = _read(path, header, AutoTokenizer.from_pretrained, "tokenizer")
    complete_tokenizer(tokenizer, header)
    tokenizer.save_pretrained(folder)
    with told(f"The tokenizer made of {path}", _ORIGINAL):
        again = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        ids = tokenizer(_SAMPLE)["input_ids"]
        same = len(ids) > 0 and again(_SAMPLE)["input_ids"] == ids
    if not same:
        raise ModelError(
            f"The tokenizer of {path} cannot be rebuilt: what was written is read otherwise.",
            remedy=_ORIGINAL,
        )
    return config


def _read_model(path: Path, header: Header, config: Any) -> PreTrainedModel:
    """The model with its weights in the dtype that loses nothing, ready to be saved."""
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {}
    try:  # newer versions would leave the weights packed
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    except ImportError:
        pass
    loaded, info = _read(
        path,
        header,
        AutoModelForCausalLM.from_pretrained,
        "weights",
        dtype=torch.float32,
        output_loading_info=True,
        config=config,
        **options,
    )
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"{path} lacks {len(missing)} tensors that the model needs: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}",
            remedy="Fetch the file again, or give the model's original checkpoint.",
        )
    dtype = _dtype(header)
    tensors = {}
    for name, tensor in loaded.state_dict().items():
        narrow = tensor.to(dtype)
        tensors[name] = narrow if torch.equal(narrow.to(tensor.dtype), tensor) else tensor
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    warn_of_unread(header, model)
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ModelError(
            f"{path}: transformers did not fill the whole model.",
            remedy="Give the model's original checkpoint.",
        )
    return model


def _dtype(header: Header) -> torch.dtype:
    """That of the matrices, if all have the same; float32 for quantised ones."""
    from gguf.constants import GGMLQuantizationType as Kind

    known = {Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}
    kinds = {Kind(t.type) for t in header.tensors.values() if len(t.shape) > 1}
    return known.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32


def _read(path: Path, header: Header, read: Any, what: str = "config", **options: Any) -> Any:
    remedy = (
        "Give the model's original checkpoint: edits of it are exported as GGUF adapters all the "
        "same. A newer transformers may read more families."
    )
    with told(f"The {what} of {path} (family {header.architecture})", remedy), _without_bars():
        return read(str(path.parent.resolve()), gguf_file=path.name, **options)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers from drawing bars where ours are."""
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    bars = getattr(reader, "tqdm", None)
    if bars is not None:  # it draws by itself, whatever is asked for
        vars(reader)["tqdm"] = partial(bars, disable=True)
    try:
        yield
    finally:
        if bars is not None:
            vars(reader)["tqdm"] = bars
        if shown:
            logging.enable_progress_bar()
