"""What shells complete: names that options take. Nothing heavy is loaded, nothing is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

from alphaedit.world.asset import NAMES

Found = list[tuple[str, str]]
"""Values, each with a few words about it."""

OF_FACTS = ("jsonl", "json", "csv", "tsv", "yaml")
FORMATS = ("lora", "delta", "checkpoint", "gguf", "gguf-lora")
GPUS = ("h200", "h100", "a100-80gb", "a100-40gb", "l40s", "rtx-4090", "l4", "t4")
GUARDS = ("warn", "stop", "rollback")
KINDS = ("hidden", "mlp", "attention", "all")
DTYPES = ("float32", "bfloat16", "float16", "float64", "4bit", "8bit")
SCHEMAS: tuple[str, ...] = (
    "cknowedit",
    "counterfact",
    "easyedit",
    "knowedit",
    "leme",
    "longform",
    "mquake",
)
SCHEMAS += ("qaedit", "ripple-edits", "wikibio", "zsre")
MADE = ("counterfact", "leme", "zsre", "knowedit", "mquake", "ripple-edits", "longform", "easyedit")
"""Schemas in which records about the bundled world are made."""
VERSIONS = ("head", "head~1", "base")
MARKS = {"MODEL": "config.json", "LEDGER": "journal.jsonl"}
"""Files by which directories are known."""


def methods(incomplete: str) -> Found:
    """Editing methods."""
    known = [*_modules("alphaedit.methods.zoo"), *_points("alphaedit.methods")]
    return _those([*known, ("auto", "What fits the model")], incomplete)


def methods_or_none(incomplete: str) -> Found:
    """Editing methods, and none at all."""
    return [*methods(incomplete), *_those([("none", "The unedited model")], incomplete)]


def plugins(incomplete: str) -> Found:
    """Plug-ins, without their options."""
    known = [*_modules("alphaedit.methods.plugins"), *_points("alphaedit.plugins")]
    return _those(known, incomplete)


def presets(incomplete: str) -> Found:
    """The package's presets, and files of presets."""
    text = (files("alphaedit.methods") / "presets.yaml").read_text(encoding="utf-8")
    known = [(name, "") for name in re.findall(r"^([\w.-]+):", text, flags=re.MULTILINE)]
    known.append(("measured", "What the model itself shows"))
    return _those([*known, *_files(incomplete, (".yaml", ".yml"))], incomplete)


def experiments(incomplete: str) -> Found:
    """Experiments of the package, and files of experiments."""
    configs = (files("alphaedit.bench.experiments") / "configs").iterdir()
    known = [(file.name.removesuffix(".yaml"), "") for file in configs]
    return _those(sorted([*known, *_files(incomplete, (".yaml", ".yml"))]), incomplete)


def models(incomplete: str) -> Found:
    """Bundled models, directories of models, and GGUF files."""
    known = [(name, "A bundled model") for name in NAMES]
    there = _folders(incomplete, MARKS["MODEL"])
    models = {name.rstrip("/") for name, _ in there}
    files = [file for file in _files(incomplete, (".gguf",)) if file[0].rstrip("/") not in models]
    return _those([*known, *there, *files], incomplete)


def bundled(incomplete: str) -> Found:
    """Bundled models."""
    return _those([(name, "A bundled model") for name in NAMES], incomplete)


def ledgers(incomplete: str) -> Found:
    """Directories that hold a ledger."""
    return _folders(incomplete, MARKS["LEDGER"])


def records(incomplete: str) -> Found:
    """Data sets that are here: those of the bundled world, and files."""
    known = [("world", "Records about the bundled world"), *((f"world:{s}", "") for s in MADE)]
    return _those([*known, *_files(incomplete, (".json", ".jsonl"))], incomplete)


def commands(ctx: Any, incomplete: str) -> Found:
    """Commands of `alphaedit`, for its help."""
    group = ctx.find_root().command
    for name in ctx.params.get("command") or ():
        group = getattr(group, "commands", {}).get(name)
    known = getattr(group, "commands", {})
    shown = (
        (name, (subcommand.help or "").strip().split("\n")[0]) for name, subcommand in known.items()
    )
    return _those(shown, incomplete)


def schemas(incomplete: str) -> Found:
    """Schemas of data sets."""
    return _those(_bare(SCHEMAS), incomplete)


def made_schemas(incomplete: str) -> Found:
    """Schemas in which records about the world are made."""
    return _those(_bare(MADE), incomplete)


def formats(incomplete: str) -> Found:
    """Formats of `alphaedit export`."""
    return _those(_bare(FORMATS), incomplete)


def fact_formats(incomplete: str) -> Found:
    """Formats of files of facts."""
    return _those(_bare(OF_FACTS), incomplete)


def tables(incomplete: str) -> Found:
    """Formats of `alphaedit world facts`."""
    return _those(_bare(("tsv", "json")), incomplete)


def sides(incomplete: str) -> Found:
    """Who is right in a merge."""
    return _those(_bare(("ours", "theirs")), incomplete)


def kinds(incomplete: str) -> Found:
    """What `alphaedit trace` restores."""
    return _those(_bare(KINDS), incomplete)


def gpus(incomplete: str) -> Found:
    """GPUs that `alphaedit plan` knows."""
    return _those(_bare(GPUS), incomplete)


def guards(incomplete: str) -> Found:
    """What a guard does."""
    return _those(_bare(GUARDS), incomplete)


def dtypes(incomplete: str) -> Found:
    """Dtypes of weights."""
    return _those(_bare(DTYPES), incomplete)


def corpora(incomplete: str) -> Found:
    """Texts for second moments."""
    known = _bare(("general", "bundled", "self", "hf:"))
    return _those([*known, *_files(incomplete, (".txt", ".jsonl"))], incomplete)


def versions(incomplete: str) -> Found:
    """Entries of a log that every ledger has."""
    return _those(_bare(VERSIONS), incomplete)


def _bare(names: Iterable[str]) -> Found:
    return [(name, "") for name in names]


def _those(candidates: Iterable[tuple[str, str]], incomplete: str) -> Found:
    return [pair for pair in candidates if pair[0].startswith(incomplete)]


def _modules(package: str) -> Found:
    """Modules of a package by the names that they register, with the first line of each."""
    entries: Found = []
    for file in sorted(files(package).iterdir(), key=lambda f: f.name):
        if file.name.endswith(".py") and not file.name.startswith("_"):
            docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            name = file.name.removesuffix(".py").replace("_", "-")
            entries.append((name, docstring.split("\n")[0].rstrip(".")))
    return entries


def _points(group: str) -> Found:
    """Names that other packages declare; they are not loaded."""
    points = entry_points(group=group)
    return [(point.name, f"of {point.dist.name}" if point.dist else "") for point in points]


def _beside(incomplete: str) -> tuple[str, list[Path]]:
    """What was typed of a path up to its last slash, and what lies there."""
    head, slash, _ = incomplete.rpartition("/")
    try:
        return head + slash, sorted(Path(head + slash or ".").expanduser().iterdir())
    except (OSError, RuntimeError, ValueError):
        return head + slash, []


def _files(incomplete: str, endings: tuple[str, ...]) -> Found:
    """Files that could be meant, and directories on the way to them."""
    head, there = _beside(incomplete)
    named = [(path, head + path.name) for path in there if not path.name.startswith(".")]
    return [
        (f"{name}/" if path.is_dir() else name, "")
        for path, name in named
        if path.is_dir() or path.suffix.lower() in endings
    ]


def _folders(incomplete: str, mark: str) -> Found:
    """Directories that hold a file called `mark`."""
    head, there = _beside(incomplete)
    names = [head + path.name for path in there if (path / mark).is_file()]
    return _those(_bare(names), incomplete)
