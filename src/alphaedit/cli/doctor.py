"""`alphaedit doctor`: what is here, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from alphaedit.cli import options
from alphaedit.cli.options import examples
from alphaedit.cli.output import FAILED, Outcome, Session
from alphaedit.core.errors import AlphaEditError

EXAMPLES = examples("alphaedit doctor", "alphaedit doctor --json")
PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "huggingface-hub", "numpy")
EXTRAS = {
    "peft": "adapters loaded by PEFT",
    "accelerate": "models over several devices, 4 and 8 bits",
    "bitsandbytes": "4 and 8 bits",
    "datasets": "hf:NAME as corpus or records",
    "lm-eval": "ability --harness",
    "sacrebleu": "BLEU of long answers",
}
EXTRA_OF = {
    "bitsandbytes": "quant",
    "accelerate": "peft",
    "datasets": "data",
    "lm-eval": "eval",
    "sacrebleu": "text",
}
LOW = 10**9
"""Bytes of memory or disk below which a warning is due."""
NOT_HERE = "not installed"


@dataclass(frozen=True)
class Problem:
    """Something that is wrong here.

    Attributes:
        essential: nothing works with it.
    """

    what: str
    remedy: str
    essential: bool = False


@dataclass
class Report:
    """All that was found out.

    Attributes:
        versions: of Python and of what is needed; None for what is not installed.
        extras: the same of what only some commands need.
        models: sizes in bytes; None for a bundled model that is not here.
    """

    versions: dict[str, str | None] = field(default_factory=dict)
    extras: dict[str, str | None] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)
    threads: int | None = None
    cores: int | None = None
    memory: dict[str, int] = field(default_factory=dict)
    folders: dict[str, dict[str, Any]] = field(default_factory=dict)
    bundled: dict[str, int | None] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    models_in: str | None = None
    ssh_keygen: str | None = None
    encoding: str | None = None
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, what: str, remedy: str, *, essential: bool = False) -> None:
        """Add a problem."""
        self.problems.append(Problem(what, remedy, essential))


@options.grouped
def doctor(common: options.Plain) -> dict[str, Any]:
    """Look at this installation: versions, devices, memory, folders, models; what to mend, and how.

    Nothing is changed and nothing downloaded. Exit code 1 if something is broken without which
    nothing works.
    """
    report = Report()
    for part in (_packages, _machine, _folders, _bundled, _hub, _others, _tools):
        part(report)
    broken = any(problem.essential for problem in report.problems)
    _show(common.session, report)
    result = {"ok": not report.problems, **asdict(report)}
    return Outcome(result, code=FAILED) if broken else result


def _packages(report: Report) -> None:
    """Versions, compared with what this package asks for."""
    from alphaedit import __version__

    report.versions = {"python": platform.python_version(), "alphaedit": __version__}
    report.versions |= {name: _version(name) for name in PACKAGES}
    report.extras = {name: _version(name) for name in EXTRAS}
    try:
        from packaging.requirements import Requirement
    except ImportError:
        report.wrong("packaging is not installed.", "pip install packaging", essential=True)
        return
    try:
        lines = metadata.requires("alphaedit") or []
    except metadata.PackageNotFoundError:
        lines = []
        report.wrong(
            "alphaedit is not installed, only found on a path.", "Install it: pip install alphaedit"
        )
    for needed in map(Requirement, lines):
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        installed = _version(needed.name)
        remedy = f"pip install '{needed}'"
        if installed is None:
            report.wrong(f"{needed.name} is not installed.", remedy, essential=True)
        elif not needed.specifier.contains(installed, prereleases=True):
            what = f"{needed.name} is {installed} and should be {needed.specifier}."
            report.wrong(what, remedy, essential=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _machine(report: Report) -> None:
    """Devices, threads, memory."""
    import psutil

    memory = psutil.virtual_memory()
    report.memory = {"total": memory.total, "free": memory.available}
    if memory.available < LOW:
        report.wrong(
            f"Only {_size(memory.available)} of memory are free.",
            "End other programs, or use a small model and --dtype bfloat16.",
        )
    report.cores = os.cpu_count()
    try:
        import torch

        from alphaedit.model.devices import devices

        report.devices = devices()
        report.threads = torch.get_num_threads()
        seen = torch.cuda.is_available()
    except Exception as error:  # a broken installation fails in any way
        remedy = "Install torch again: pip install --force-reinstall torch"
        report.wrong(f"torch cannot be used: {_first(error)}", remedy, essential=True)
        return
    if shutil.which("nvidia-smi") and not seen:
        report.wrong(
            "There is an NVIDIA driver, and torch does not see a GPU.",
            "Install a build of torch with CUDA (pytorch.org), or mend the driver (nvidia-smi).",
        )
    try:
        import transformers  # noqa: F401
    except Exception as error:
        remedy = "Install it again: pip install --force-reinstall transformers"
        report.wrong(f"transformers cannot be used: {_first(error)}", remedy, essential=True)


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _folders(report: Report) -> None:
    """Where is written: the cache, temporary files, the current directory."""
    from alphaedit.core.cache import default_dir

    try:
        temporary: Path | None = Path(tempfile.gettempdir())
    except OSError:  # it tries them all
        temporary = None
        report.wrong("No temporary directory can be written.", "Set TMPDIR.", essential=True)
    try:
        cache: Path | None = default_dir()
    except (RuntimeError, AlphaEditError) as error:
        cache = None
        report.wrong(f"No cache directory: {_first(error)}", "Set ALPHAEDIT_CACHE.")
    try:
        current: Path | None = Path.cwd()
    except OSError:
        current = None
        report.wrong("The current directory is gone.", "Change to another one.")
    remedies = {
        "cache": "Set ALPHAEDIT_CACHE, or give --cache-dir.",
        "temporary": "Set TMPDIR.",
        "current": "Give paths elsewhere for what is to be written.",
    }
    places = {"cache": cache, "temporary": temporary, "current": current}
    for name, folder in places.items():
        if folder is None:
            continue
        free = _free(folder)
        row: dict[str, Any] = {"path": str(folder), "writable": _writable(folder), "free": free}
        if name == "cache":
            row |= _files_below(folder)
        report.folders[name] = row
        if not row["writable"]:
            report.wrong(f"The {name} directory {folder} cannot be written.", remedies[name])
        elif free < LOW:
            report.wrong(
                f"{_size(free)} are free in the {name} directory {folder}.",
                "Free some space. " + remedies[name],
            )


def _standing(folder: Path) -> Path:
    """`folder`, or the nearest above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _writable(folder: Path) -> bool:
    try:
        standing = _standing(folder)
        if standing != folder:  # it would be made; it is not made for a look
            return standing.is_dir() and os.access(standing, os.W_OK | os.X_OK)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(_standing(folder)).free
    except OSError:
        return 0


def _files_below(folder: Path) -> dict[str, int]:
    """Number and size of the files below `folder`."""
    sizes = []
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.lstat(os.path.join(place, name)).st_size)
            except OSError:  # gone meanwhile
                continue
    return {"files": len(sizes), "bytes": sum(sizes)}


def _bundled(report: Report) -> None:
    """The models that come with the package."""
    from alphaedit.world.asset import NAMES, path

    for name in NAMES:
        try:
            report.bundled[name] = _files_below(path(name))["bytes"]
        except AlphaEditError as error:
            report.bundled[name] = None
            report.wrong(error.message, error.remedy or "Install alphaedit again.")


def _hub(report: Report) -> None:
    """Models that were downloaded before."""
    try:
        from huggingface_hub import constants, scan_cache_dir
        from huggingface_hub.errors import CacheNotFound
    except Exception as error:
        remedy = "Install it again: pip install --force-reinstall huggingface-hub"
        report.wrong(f"huggingface_hub cannot be used: {_first(error)}", remedy, essential=True)
        return
    report.models_in = str(constants.HF_HUB_CACHE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cache = scan_cache_dir()
    except CacheNotFound:  # nothing was ever downloaded
        return
    except (OSError, ValueError) as error:
        report.wrong(
            f"The Hugging Face cache {report.models_in} cannot be read: {_first(error)}",
            "Set HF_HOME to another directory.",
        )
        return
    models = [repo for repo in cache.repos if repo.repo_type == "model"]
    report.models = {m.repo_id: m.size_on_disk for m in sorted(models, key=lambda m: m.repo_id)}


def _others(report: Report) -> None:
    """Methods and plug-ins of other packages that cannot be loaded."""
    if any(problem.essential for problem in report.problems):
        return  # what is missing would be told a second time
    from alphaedit.core.errors import BrokenEntryPoint
    from alphaedit.methods import plugin, registry

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        registry.methods()
        plugin.plugins()
    for warning in told:
        if issubclass(warning.category, BrokenEntryPoint):
            what, _, remedy = str(warning.message).rpartition(". ")
            report.wrong(f"{what}.", remedy)


def _tools(report: Report) -> None:
    """Programs and settings of the terminal."""
    report.ssh_keygen = shutil.which("ssh-keygen")
    if report.ssh_keygen is None:
        report.wrong(
            "There is no ssh-keygen: ledgers can be neither signed nor their signatures verified.",
            "Install OpenSSH, if you want that.",
        )
    report.encoding = getattr(sys.__stdout__, "encoding", None)
    if report.encoding and not report.encoding.lower().startswith("utf"):
        report.wrong(
            f"Standard output is {report.encoding}: other signs are shown as escapes.",
            "Set PYTHONIOENCODING=utf-8 or LC_ALL=C.UTF-8.",
        )


def _show(session: Session, report: Report) -> None:
    def line(name: str, value: str) -> None:
        session.say(f"{name}: {value}")

    line("Versions", ", ".join(f"{k} {v or NOT_HERE}" for k, v in report.versions.items()))
    for name, version in report.extras.items():
        extra = f"; pip install 'alphaedit[{EXTRA_OF.get(name, name)}]'" if version is None else ""
        line(name, f"{version or NOT_HERE} ({EXTRAS[name]}{extra})")
    threads = "unknown" if report.threads is None else str(report.threads)
    line("Devices", ", ".join(report.devices) or "unknown")
    line("Threads", f"{threads} of {report.cores} cores")
    line("Memory", f"{_size(report.memory['free'])} free of {_size(report.memory['total'])}")
    for name, row in report.folders.items():
        contents = f", {row['files']} files of {_size(row['bytes'])}" if "files" in row else ""
        can = "writable" if row["writable"] else "not writable"
        named = f"{name.capitalize()} directory"
        line(named, f"{row['path']} ({can}{contents}, {_size(row['free'])} free)")
    for bundled, size in report.bundled.items():
        line(f"Model {bundled}", NOT_HERE if size is None else _size(size))
    line("Hugging Face cache", f"{report.models_in or 'unknown'}, {len(report.models)} models")
    for model, count in report.models.items():
        line(f"  {model}", _size(count))
    line("ssh-keygen", report.ssh_keygen or NOT_HERE)
    if not report.problems:
        session.say("Everything is in order.", style="green")
    for problem in report.problems:
        label, style = ("Broken", "bold red") if problem.essential else ("Note", "bold yellow")
        session.say(f"{label}: ", style=style, end="")
        session.say(f"{problem.what} {problem.remedy}")


def _size(count: float) -> str:
    """Bytes in words."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
