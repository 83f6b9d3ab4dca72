"""Where commands write: all of it is checked before the work, and what fails after it is told."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.cli.output import FAILED, Outcome, Session
from alphaedit.core import disk
from alphaedit.core.errors import AlphaEditError, ConfigError, ResourceError
from alphaedit.core.files import check_ours, recover
from alphaedit.core.marks import is_ours, read_manifest

if TYPE_CHECKING:
    from alphaedit.core.edit import Edit

FILE, LEDGER, NEW_LEDGER, RESULTS = "file", "ledger", "new ledger", "results"
FOLDERS = {
    "checkpoint": ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    "adapter": ("adapter_config.json", "adapter_model.safetensors", "README.md"),
    "delta": ("delta.json", "delta.safetensors", "README.md"),
}
"""Kinds of folders that carry a manifest, and names of files that they have."""


@dataclass(frozen=True)
class Output:
    """One place that a command writes to.

    Attributes:
        option: as it is typed, for messages; "" if the place is no option's.
        path: the place; None if it was not asked for.
        kind: file; checkpoint, adapter or delta; ledger (begun if there is none), new ledger;
            results (of an experiment, which looks after them itself).
        ours: by what a file is known as ours.
        again: whether a file of ours is replaced without --force.
    """

    option: str
    path: Path | None
    kind: str = FILE
    ours: Callable[[Path], bool] = is_ours
    again: bool = False

    @property
    def place(self) -> Path:
        """The path, of an output that was asked for."""
        assert self.path is not None
        return self.path

    def __str__(self) -> str:
        return f"{self.option} {self.path}".strip()

    def is_ledger(self) -> bool:
        """Whether it is a ledger that is there and may grow."""
        from alphaedit.ledger.ledger import Ledger

        return self.kind == LEDGER and Ledger.at(self.place)


def check_outputs(
    model: str | Sequence[str] | None,
    outputs: Sequence[Output],
    *,
    force: bool = False,
    inputs: Mapping[str, Path | None] | None = None,
) -> None:
    """Refuse places that a command cannot write to, or must not; nothing is written.

    Args:
        model: what MODEL is called on the command line, or several of them.
        outputs: where the command writes.
        force: whether what carries our mark may be replaced.
        inputs: directories that the command reads, by what they are called.

    Raises:
        ConfigError: places that are equal, lie inside one another, inside MODEL or another input;
            that are links; or that hold what may not be replaced.
        ResourceError: a place that cannot be written.
    """
    given = [output for output in outputs if output.path is not None]
    for output in given:
        _check_name(output)
        _check_link(output)
    for number, output in enumerate(given):
        for other in given[:number]:
            _check_apart(output, other)
    names = [model] if isinstance(model, str) else list(model or ())
    for name in names:
        _check_outside(given, "MODEL", _places_of(name))
    for called, place in (inputs or {}).items():
        _check_outside(given, called, [place] if place is not None else [])
    for output in given:
        _check_there(output, names, force=force)
    # Of several ranks the first writes.
    if os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK") == "0":
        for output in given:
            _check_writable(output)


def _check_name(output: Output) -> None:
    try:
        disk.check_name(output.place)
        os.lstat(output.place)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise disk.cannot_write(output.place, error, "Nothing was done.") from error


def _check_link(output: Output) -> None:
    if output.place.is_symlink() and not output.is_ledger():
        raise ConfigError(
            f"{output} is a link to {os.readlink(output.place)}: it is neither followed nor "
            "replaced.",
            remedy=f"Give {output.place.resolve()} itself, or another place.",
        )


def _check_apart(output: Output, other: Output) -> None:
    first, second = output.place.resolve(), other.place.resolve()
    if first == second or (first.exists() and second.exists() and first.samefile(second)):
        raise ConfigError(
            f"{other} and {output} are the same place.", remedy="Give each a place of its own."
        )
    for inner, outer in ((output, other), (other, output)):
        if inner.place.resolve().is_relative_to(outer.place.resolve()):
            raise ConfigError(
                f"{inner} lies inside {outer}.", remedy="Give each a place of its own."
            )


def _check_outside(given: Sequence[Output], called: str, places: Sequence[Path]) -> None:
    for output in given:
        for place in places:
            root, resolved = place.resolve(), output.place.resolve()
            if output.is_ledger() or not resolved.is_relative_to(root):
                continue
            where = "is" if resolved == root else "lies inside"
            raise ConfigError(
                f"{output} {where} {called} ({place}), which is never written to.",
                remedy="Choose another place.",
            )


def _places_of(model: str) -> list[Path]:
    """Where a model lies on this machine, as far as that is seen without loading it."""
    from alphaedit.world.asset import NAMES, path

    if model in NAMES:
        try:
            return [path(model)]
        except AlphaEditError:
            return []
    try:
        here = Path(model).expanduser()
        if here.exists():
            return [here]
    except (OSError, RuntimeError, ValueError):  # too long, of an unknown user, with a NUL
        return []
    from huggingface_hub.constants import HF_HUB_CACHE

    cached = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    return [cached] if "/" in model and cached.is_dir() else []


def _check_there(output: Output, models: Sequence[str], *, force: bool) -> None:
    if output.kind == FILE:
        _check_file(output, force=force)
    elif output.kind in FOLDERS:
        _check_folder(output, models, force=force)
    elif output.kind == RESULTS:
        if output.place.exists() and not output.place.is_dir():
            raise ConfigError(f"{output} is a file.", remedy="Give a directory.")
        recover(output.place)
    elif not output.is_ledger():
        check_new(output.place)


def _check_file(output: Output, *, force: bool) -> None:
    path = output.place
    if path.is_dir():
        raise ConfigError(f"{output} is a directory.", remedy="Give a file name inside it.")
    if not path.exists():
        return
    if not path.is_file():
        raise ConfigError(f"{output} is neither file nor directory.", remedy="Choose another name.")
    if not output.ours(path):
        raise ConfigError(
            f"{output} exists and was not made by alphaedit: it is not replaced, even with "
            "--force.",
            remedy="Choose another name, or remove it yourself.",
        )
    if not force and not output.again:
        raise ConfigError(
            f"{output} exists.", remedy="Choose another name, or replace it with --force."
        )


def _check_folder(output: Output, models: Sequence[str], *, force: bool) -> None:
    path = output.place
    if not path.exists():
        return
    if not path.is_dir():
        raise ConfigError(f"{output} is a file.", remedy="Give a directory.")
    recover(path)
    if not any(path.iterdir()):
        return
    manifest = read_manifest(path)
    if manifest is None or manifest.kind != output.kind:
        what = "has no alphaedit.json" if manifest is None else f"holds a {manifest.kind}"
        raise ConfigError(
            f"{output} exists and {what}: no {output.kind} is written into it, even with --force.",
            remedy="Choose another directory, or remove it yourself.",
        )
    if not force:
        raise ConfigError(
            f"{output} exists.",
            remedy="Choose another directory, or replace with --force what alphaedit wrote there.",
        )
    names = {*manifest.files, *_new_names(output.kind, models)}
    if output.kind == "checkpoint":
        from alphaedit.editor.checkpoint import rival

        names.update(file.name for file in path.iterdir() if rival(file.name))
    check_ours(path, manifest, sorted(names))


def _new_names(kind: str, models: Sequence[str]) -> list[str]:
    """Names of files that are going to be written, as far as they are known."""
    names = set(FOLDERS[kind])
    if kind == "checkpoint":
        folders = [place for model in models for place in _places_of(model) if place.is_dir()]
        files = [path for folder in folders for path in folder.iterdir() if path.is_file()]
        names.update(path.name for path in files if not path.name.startswith(".alphaedit."))
        names.discard("alphaedit.json")
    return sorted(names)


def check_new(folder: Path | None) -> None:
    """Refuse a directory that holds anything but a ledger that was never begun.

    Raises:
        ConfigError: it does, or is a file.
    """
    if folder is None or not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file.", remedy="Give a directory.")
    from alphaedit.ledger.ledger import BEFORE, Ledger

    if Ledger.at(folder):
        raise ConfigError(
            f"{folder} holds a ledger already.", remedy="Use it, or choose another directory."
        )
    if any(path.name not in BEFORE for path in folder.iterdir()):
        raise ConfigError(f"{folder} exists and is not empty.", remedy="Choose another directory.")


def _check_writable(output: Output) -> None:
    """Make what is to be made, and remove it again.

    Raises:
        ResourceError: it cannot be made.
    """
    path, made = output.place.absolute(), []
    try:
        if output.is_ledger():
            from alphaedit.ledger.ledger import JOURNAL

            open(path / JOURNAL, "r+b").close()
        if path.is_dir():
            part = disk.new_part(path / "alphaedit", folder=True)
        else:
            made = disk.make_folders(path.parent)
            part = disk.new_part(path, folder=output.kind != FILE)
        disk.remove(part)
    except OSError as error:
        raise disk.cannot_write(path, error, "Nothing was done.") from error
    finally:
        disk.remove_folders(made)


def end(
    session: Session,
    result: Mapping[str, Any],
    failed: Mapping[str, Exception],
    *,
    code: int = 0,
    done: str = "",
    remedies: Mapping[str, str] | None = None,
    called: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The result of a command, and what failed: told now, or in the JSON under "error".

    Args:
        session: the output of the command.
        result: what the command found and wrote.
        failed: outputs that could not be written, by name, and why.
        code: exit code, if nothing failed.
        done: a sentence on what is kept.
        remedies: how to get what is missing, by name.
        called: what an output is called, if not by an option of its name.
    """
    if not failed:
        return Outcome(dict(result), code=code) if code else dict(result)
    from alphaedit.cli.failures import report

    kinds, messages, remedy = [], [], []
    for name, error in failed.items():
        ours = isinstance(error, AlphaEditError)
        kinds.append(type(error).__name__ if ours else ResourceError.__name__)
        why = error.message if isinstance(error, AlphaEditError) else f"{error!r}."
        messages.append(f"{(called or {}).get(name, f'--{name}')}: {why}")
        other = error.remedy if isinstance(error, AlphaEditError) else None
        remedy.append((remedies or {}).get(name) or other or "")
    told = {
        "type": kinds[0],
        "message": " ".join(messages),
        "remedy": " ".join(filter(None, [done, *remedy])) or None,
    }
    if not session.json:
        report(str(told["type"]), str(told["message"]), told["remedy"], as_json=False)
    return Outcome({**result, "error": told}, code=FAILED)


def after_edits(ledger: Path | None, edits: Sequence[Edit], model: str) -> dict[str, Any]:
    """What `end` says when outputs of an edit are missing: what is kept, what to do."""
    if ledger is None:
        return {}
    from alphaedit.jobs.edit import recorded

    place, name = shlex.quote(str(ledger)), shlex.quote(model)
    return {
        "done": recorded(ledger, edits),
        "remedies": {
            "checkpoint": "Write the model alone: "
            f"alphaedit export {place} --model {name} --format checkpoint -o DIR",
            "report": "Facts and answers of an edit: "
            f"alphaedit show {place} {edits[-1].id if edits else 'last'}",
        },
    }
