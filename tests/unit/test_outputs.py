"""Outputs are checked before the work, only ours is replaced, and what is done is told.

Findings 2, 3 and 8.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.deaths import acting, full, killed, snapshot
from tests.tiny import SENTENCES, save_tiny
from transformers import AutoModelForCausalLM

from alphaedit.cli import outputs
from alphaedit.cli.app import run
from alphaedit.cli.outputs import LEDGER, NEW_LEDGER, Output, check_outputs
from alphaedit.core.disk import remove
from alphaedit.core.errors import ConfigError, ResourceError
from alphaedit.core.files import write_text
from alphaedit.core.marks import MANIFEST, is_ours
from alphaedit.ledger.ledger import Ledger
from alphaedit.ledger.store import Store

FACT = ["--prompt", "The mother tongue of {} is", "--subject", "Danielle Darrieux"]
FACT += ["--target", "English"]
MINE = {"notes.md": b"mine", "src/train.py": b"print()"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, text, and a ledger of two edits."""
    folder = tmp_path_factory.mktemp("outputs")
    save_tiny("gpt2", folder / "model")
    (folder / "text.txt").write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    (folder / "facts.jsonl").write_text(
        json.dumps({"prompt": FACT[1], "subject": FACT[3], "target": FACT[5]}) + "\n"
    )
    for _ in range(2):
        assert run(words(folder, "edit", *FACT, "-o", str(folder / "ledger"))) == 0
    return folder


def words(base: Path, command: str, *rest: str, method: bool = True) -> list[str]:
    found = [command, str(base / "model"), *rest, "--corpus", str(base / "text.txt"), "-q"]
    found += ["--tokens", "400", "--cache-dir", str(base / "cache")]
    if method:
        found += ["--no-generation"]
        for pair in ("layers=1,2", "steps=2", "contexts=1", "energy=0.9", "ridge=1"):
            found += ["--set", pair]
    return found


def mine(folder: Path) -> Path:
    for name, data in MINE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No command may come as far as loading a model."""

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("alphaedit.jobs.opening.Opening.open", never)
    monkeypatch.setattr("alphaedit.model.handle.ModelHandle.load", never)


def refused(argv: list[str], match: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*argv, "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert re.search(match, error["message"]), error
    assert error["remedy"]
    return dict(error)


def test_places_apart(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    one, two = Output("-o", tmp_path / "x", LEDGER), Output("--checkpoint", tmp_path / "x")
    for others, match in (
        ([one, two], "the same place"),
        ([one, Output("--report", tmp_path / "x" / "r.html")], "--report .* lies inside -o"),
        ([Output("--report", tmp_path / "x" / "y" / "r"), one], "--report .* lies inside -o"),
        ([one, Output("--report", tmp_path / "y" / ".." / "x")], "the same place"),
        (
            [
                Output("-o", tmp_path / "real" / "x", LEDGER),
                Output("--report", tmp_path / "link" / "x"),
            ],
            "the same place",
        ),
        ([Output("-o", tmp_path / "link", LEDGER)], "is a link to .*real"),
    ):
        with pytest.raises(ConfigError, match=match):
            check_outputs(None, others)
    check_outputs(None, [one, Output("--report", tmp_path / "xx"), Output("--plot", None)])
    assert {p.name for p in tmp_path.iterdir()} == {"link", "real"}


def test_outside_the_model(base: Path, tmp_path: Path) -> None:
    model = base / "model"
    (tmp_path / "link").symlink_to(model)
    before = snapshot(base)
    for named in (model, tmp_path / "link"):
        for place in (model, model / "new", tmp_path / "link" / "a" / "b"):
            for kind in (LEDGER, NEW_LEDGER, "checkpoint", "adapter", outputs.FILE):
                with pytest.raises(ConfigError, match=r"MODEL|is a link"):
                    check_outputs(str(named), [Output("-o", place, kind)], force=True)
    with pytest.raises(ConfigError, match=r"lies inside MODEL"):
        check_outputs("bundled", [Output("-o", outputs._places_of("bundled")[0] / "x")])
    with pytest.raises(ConfigError, match="lies inside LEDGER"):
        check_outputs(
            None, [Output("-o", base / "ledger" / "x")], inputs={"LEDGER": base / "ledger"}
        )
    assert snapshot(base) == before


def test_a_models_snapshot_in_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "models--owner--name" / "snapshots" / "1"
    place.mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="lies inside MODEL"):
        check_outputs("owner/name", [Output("--checkpoint", place / "x", "checkpoint")])


def test_a_ledger_in_a_model_may_grow(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], unloaded: None
) -> None:
    held = tmp_path / "model" / "edits"
    save_tiny("gpt2", tmp_path / "model")
    Ledger.create(held, "0" * 64)
    check_outputs(str(tmp_path / "model"), [Output("-o", held, LEDGER)])
    (tmp_path / "link").symlink_to(held)
    check_outputs(str(tmp_path / "model"), [Output("-o", tmp_path / "link", LEDGER)])
    remove(held)
    model = str(tmp_path / "model")
    refused(["init", str(held), "--model", model], "lies inside MODEL", capsys)
    refused(["edit", model, *FACT, "-o", str(held)], "lies inside MODEL", capsys)
    assert not held.exists()


def test_places_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for kind in (outputs.FILE, "checkpoint", LEDGER):
        for place in (
            tmp_path / "file" / "x",
            tmp_path / "file" / "x" / "y",
            tmp_path / ("n" * 300),
            tmp_path / "nul\0",
        ):
            with pytest.raises(ResourceError, match="Cannot write") as caught:
                check_outputs(None, [Output("-o", place, kind)])
            assert "Nothing was done" in str(caught.value)
    with acting(1, full), pytest.raises(ResourceError, match="No space left"):
        check_outputs(None, [Output("-o", tmp_path / "new" / "x")])
    assert snapshot(tmp_path) == {"file": b"mine"}
    assert [p.name for p in tmp_path.iterdir()] == ["file"]

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(ResourceError, match="Permission denied"):
        check_outputs(None, [Output("-o", base / "ledger", LEDGER)])


def test_files_that_are_there(tmp_path: Path) -> None:
    mine(tmp_path)
    write_text(f"<html>{outputs.is_ours.__globals__['HTML']}</html>", tmp_path / "ours.html")
    thesis = Output("--report", tmp_path / "notes.md")
    for force in (False, True):
        with pytest.raises(ConfigError, match="was not made by alphaedit"):
            check_outputs(None, [thesis], force=force)
    ours = tmp_path / "ours.html"
    with pytest.raises(ConfigError, match="exists") as caught:
        check_outputs(None, [Output("--report", ours)])
    assert "--force" in str(caught.value)
    check_outputs(None, [Output("--report", ours)], force=True)
    check_outputs(None, [Output("", ours, again=True)])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="neither file nor directory"):
        check_outputs(None, [Output("--report", tmp_path / "pipe")], force=True)
    with pytest.raises(ConfigError, match="is a directory"):
        check_outputs(None, [Output("--report", tmp_path / "src")], force=True)


COMMANDS: dict[str, Callable[[Path, str], list[str]]] = {
    "edit -o": lambda b, x: words(b, "edit", *FACT, "-o", x),
    "edit --checkpoint": lambda b, x: words(b, "edit", *FACT, "--checkpoint", x),
    "edit --report": lambda b, x: words(b, "edit", *FACT, "--report", x),
    "eval --report": lambda b, x: words(b, "eval", str(b / "facts.jsonl"), "--report", x),
    "init": lambda b, x: ["init", x, "--model", str(b / "model")],
    "revert --checkpoint": lambda b, x: [
        *("revert", str(b / "ledger"), "--model", str(b / "model"), "--checkpoint", x)
    ],
    **{
        f"export --format {form}": lambda b, x, form=form: [  # type: ignore[misc]
            *("export", str(b / "ledger"), "--model", str(b / "model"), "--format", form, "-o", x)
        ]
        for form in ("lora", "delta", "checkpoint")
    },
    "check --junit": lambda b, x: [
        *("check", str(b / "model"), str(b / "facts.jsonl"), "--junit", x)
    ],
    "stats -o": lambda b, x: words(b, "stats", "-o", x, method=False),
    "stats --plot": lambda b, x: words(b, "stats", "--plot", f"{x}.svg", method=False),
    "trace --plot": lambda b, x: [
        *("trace", str(b / "model"), str(b / "facts.jsonl"), "--plot", f"{x}.svg")
    ],
    "tune -o": lambda b, x: [
        *("tune", str(b / "model"), str(b / "facts.jsonl")),
        "-o",
        f"{x}.yaml",
    ],
    "pack": lambda b, x: ["pack", str(b / "ledger"), f"{x}.tar"],
    "experiment -o": lambda b, x: [
        *("experiment", "main-table", "--model", str(b / "model"), "-o", x)
    ],
    "world train -o": lambda b, x: ["world", "train", "bundled-small", "-o", x],
    "world facts -o": lambda b, x: ["world", "facts", "--count", "3", "-o", x],
}
OUTSIDE = {name for name in COMMANDS if name.split()[0] not in ("world", "pack")}
FORCED = set(COMMANDS) - {"edit -o", "init", "experiment -o", "world train -o"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_looks_before_it_works(
    name: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], unloaded: None
) -> None:  # findings 2 and 3
    before = snapshot(base)
    typed = COMMANDS[name](base, "X")
    ending = "".join(re.findall(r"\bX(\.\w+)", " ".join(typed)))
    if name in OUTSIDE:
        refused(COMMANDS[name](base, str(base / "model" / "x")), "lies inside MODEL", capsys)
    mine(tmp_path / "mine")
    (tmp_path / f"link{ending}").symlink_to(tmp_path / "mine")
    refused(COMMANDS[name](base, str(tmp_path / "link")), "is a link to", capsys)
    (tmp_path / "file").write_text("mine")
    for force in [[], ["--force"]] if name in FORCED else [[]]:
        place = tmp_path / "file" / "x"
        refused([*COMMANDS[name](base, str(place)), *force], "Cannot write", capsys)
        (tmp_path / f"other{ending}").write_text("mine")
        refused(
            [*COMMANDS[name](base, str(tmp_path / "other")), *force], "is a file|made by", capsys
        )
        match = "is a directory" if ending or name in FILES else "mine (exists|holds|is not empty)"
        mine(tmp_path / f"mine{ending}")
        refused([*COMMANDS[name](base, str(tmp_path / "mine")), *force], match, capsys)
    assert (tmp_path / f"link{ending}").is_symlink()
    assert snapshot(base) == before
    assert snapshot(tmp_path / "mine") == MINE
    assert not [p for p in tmp_path.rglob(".*")]


FILES = {"edit --report", "eval --report", "check --junit", "stats -o", "world facts -o"}


def test_a_ledger_and_a_checkpoint_at_one_place(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], unloaded: None
) -> None:  # finding 2
    place = str(tmp_path / "x")
    refused(words(base, "edit", *FACT, "-o", place, "--checkpoint", place), "same place", capsys)
    inside = words(base, "edit", *FACT, "-o", place, "--checkpoint", f"{place}/model")
    refused(inside, "lies inside -o", capsys)
    forced = words(base, "edit", *FACT, "--checkpoint", str(base / "model"), "--force")
    refused(forced, "is MODEL", capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def checkpoint(base: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A checkpoint that we wrote, with files of the user in it, and a command that writes it."""
    folder = tmp_path / "work"
    command = ["export", str(base / "ledger"), "--model", str(base / "model"), "-q"]
    command += ["--format", "checkpoint", "-o", str(folder)]
    assert run([*command, "--at", "base"]) == 1  # nothing to export
    assert run(command) == 0
    mine(folder)
    return folder, command


def test_force_replaces_what_is_ours(
    checkpoint: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:  # finding 3
    folder, command = checkpoint
    before = snapshot(folder)
    refused(command, "exists", capsys)
    assert snapshot(folder) == before
    (folder / "FACTS.md").unlink()
    assert run([*command, "--force"]) == 0
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "README.md", "tokenizer.json"]
)
def test_force_does_not_replace_what_was_changed(
    name: str,
    checkpoint: tuple[Path, list[str]],
    capsys: pytest.CaptureFixture[str],
    unloaded: None,
    base: Path,
) -> None:  # finding 3
    folder, plain = checkpoint
    manifest = json.loads((folder / MANIFEST).read_text())["files"]
    assert (name in manifest) == (name != "README.md")
    (folder / name).write_text("changed by hand")
    new = base / "model" / "README.md"
    new.write_text("the base's own")
    try:
        before = snapshot(folder)
        match = "was changed" if name in manifest else "was not written by alphaedit"
        error = refused([*plain, "--force"], match, capsys)
        assert name in error["message"]
        assert snapshot(folder) == before
    finally:
        new.unlink()


@pytest.mark.slow
def test_force_killed_at_every_change(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    folder = tmp_path / "work"
    ledger = str(base / "ledger")
    common = ["--model", str(base / "model"), "-q", "--json", "--force"]
    one = ["export", ledger, "--at", "@1", "--format", "checkpoint", "-o", str(folder), *common]
    two = ["export", ledger, "--format", "checkpoint", "-o", str(folder), *common]

    def saved(command: list[str]) -> dict[str, bytes]:
        remove(folder)
        assert run(command) == 0
        return snapshot(mine(folder))

    new, old = saved(two), saved(one)
    assert old != new
    assert old.keys() == new.keys()
    refusals = 0
    for point in range(1, 400):
        saved(one)
        died = killed(lambda: run(two) and os._exit(1), point)
        after = snapshot(folder)
        assert {name: after[name] for name in MINE} == MINE
        if (folder / "config.json").exists():
            shown = {name: data for name, data in after.items() if name[0] != "."}
            assert shown in (old, new)
        else:
            refusals += 1
            with pytest.raises((OSError, ValueError), match=r"config\.json"):
                AutoModelForCausalLM.from_pretrained(folder)
        if not died:
            break
        assert run(two) == 0
        assert snapshot(folder) == new
    assert refusals > 10
    assert after == new


@pytest.mark.slow
def test_force_on_a_full_disk(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "work"
    common = ["--model", str(base / "model"), "-q", "--json", "--force"]
    one = ["export", str(base / "ledger"), "--at", "@1", "--format", "checkpoint"]
    one += ["-o", str(folder), *common]
    two = [word for word in one if word not in ("--at", "@1")]
    failures = 0
    for point in range(1, 200):
        remove(folder)
        assert run(one) == 0
        before = snapshot(mine(folder))
        capsys.readouterr()
        with acting(point, full) as count:
            code = run(two)
        if code:
            failures += 1
            said = json.loads(capsys.readouterr().out)["error"]["message"]
            assert "No space left" in said
            assert snapshot(folder) == before
        assert not [p for p in tmp_path.rglob(".*")]
        if count.left > 0:
            break
    assert failures > 15


def cannot(*args: object, **kwargs: object) -> None:
    raise ResourceError("Cannot write r.html: No space left on device.", remedy="Free some space.")


def test_what_is_recorded_is_told(
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # finding 8
    ledger, folder = tmp_path / "edits", tmp_path / "model"
    monkeypatch.setattr("alphaedit.report.page.write", cannot)
    monkeypatch.setattr("alphaedit.editor.session.save_checkpoint", cannot)
    argv = words(base, "edit", *FACT, "-o", str(ledger), "--report", str(tmp_path / "r.html"))
    argv += ["--checkpoint", str(folder)]
    capsys.readouterr()
    assert run([*argv, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    (edit,) = Ledger(ledger).head.edits
    assert found["edits"] == [edit]
    assert (found["out"], found["checkpoint"], found["report"]) == (str(ledger), None, None)
    assert found["efficacy"]["n"] == 1  # the work is not lost
    error = found["error"]
    assert error["type"] == "ResourceError"
    for option in ("--report", "--checkpoint"):
        assert f"{option}: Cannot write" in error["message"]
    assert f"In {ledger} edit {edit} is recorded" in error["remedy"]
    export = re.search(
        r"alphaedit (export \S+ --model \S+ --format checkpoint) -o DIR", error["remedy"]
    )
    assert export is not None
    assert f"alphaedit show {ledger} {edit}" in error["remedy"]
    monkeypatch.undo()
    assert run([*export[1].split(), "-o", str(folder), "-q"]) == 0
    assert (folder / "config.json").is_file()
    assert len(Ledger(ledger).head.edits) == 1

    monkeypatch.setattr("alphaedit.report.page.write", cannot)
    capsys.readouterr()
    assert run(argv[:-2]) == 1
    said = capsys.readouterr()
    assert "is recorded: the same command again would record it twice" in " ".join(said.err.split())
    assert f"Ledger written to {ledger}" in said.out
    assert "Report written" not in said.out
    assert len(Ledger(ledger).head.edits) == 2


def test_batches_that_are_recorded_before_one_fails(
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # finding 8
    facts = tmp_path / "facts.jsonl"
    rows = [
        {"prompt": "The capital of {} is", "subject": subject, "target": "Rome"}
        for subject in ("France", "Spain", "Norway")
    ]
    facts.write_text("\n".join(map(json.dumps, rows)))
    real, calls = Store.write, []

    def second(self: Store, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            full()
        return real(self, *args)

    for failure in (OSError, MemoryError):
        ledger = tmp_path / failure.__name__
        calls.clear()
        monkeypatch.setattr(Store, "write", second)
        if failure is MemoryError:
            monkeypatch.setattr("tests.unit.test_outputs.full", out_of_memory)
        argv = words(base, "edit", str(facts), "--batch-size", "1", "-o", str(ledger), "--json")
        capsys.readouterr()
        assert run(argv) == 1
        remedy = json.loads(capsys.readouterr().out)["error"]["remedy"]
        (edit,) = Ledger(ledger).head.edits
        assert f"In {ledger} edit {edit} is recorded" in remedy
        assert "Nothing was changed" not in remedy


def out_of_memory() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("eval --report", "--report"),
        ("check --junit", "--junit"),
        ("stats -o", "--out"),
        ("stats --plot", "--plot"),
        ("trace --plot", "--plot"),
    ],
)
def test_results_are_not_lost_with_a_file(
    name: str,
    option: str,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # finding 8
    monkeypatch.setattr("alphaedit.core.disk.to_disk", cannot)
    capsys.readouterr()
    assert run([*COMMANDS[name](base, str(tmp_path / "x")), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert f"{option}: Cannot write" in found["error"]["message"]
    assert {"edit_success", "facts", "layers", "traces"} & set(found)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["check --junit", "stats -o", "stats --plot", "trace --plot", "pack"]
)
def test_our_own_files_are_known(
    name: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = COMMANDS[name](base, str(tmp_path / "x"))
    for ending in ("svg", "png", "pdf") if name.endswith("--plot") else (None,):
        command = [word.replace(".svg", f".{ending}") for word in argv]
        first = run(command)
        (path,) = tmp_path.iterdir()
        assert name == "pack" or is_ours(path)
        before = path.read_bytes()
        refused(command, "exists", capsys)
        assert path.read_bytes() == before
        assert run([*command, "--force"]) == first
        path.unlink()


def test_presets_and_logs_of_trials(base: Path, tmp_path: Path, unloaded: None) -> None:
    from alphaedit.methods.presets import read_preset, write_preset
    from alphaedit.tune.tuner import HEADER

    path = tmp_path / "p.yaml"
    write_preset(path, {"all": {"layers": [1]}}, "Use: it")
    assert is_ours(path)
    assert read_preset(path)["all"] == {"layers": [1]}
    argv = ["tune", str(base / "model"), str(base / "facts.jsonl"), "-o", str(path), "--force"]
    log = tmp_path / "p.yaml.trials.jsonl"
    log.write_text('{"mine": 1}\n')
    assert run(argv) == 1
    assert log.read_text() == '{"mine": 1}\n'
    log.write_text(json.dumps(dict.fromkeys(HEADER)) + "\n")
    with pytest.raises(AssertionError, match="a model is loaded"):
        raise_through(argv)
    assert log.exists()  # it goes when the search begins


def raise_through(argv: list[str]) -> None:
    from alphaedit.cli import tune

    tune.tune(model=argv[1], facts=argv[2], out=Path(argv[4]), force=True, json=True, quiet=True)


@pytest.mark.parametrize(
    ("command", "other"),
    [
        (["facts", "--count", "5"], "A\tB\tC\n"),
        (["facts", "--count", "5", "--format", "json"], '[{"subject": 1}]'),
        (["records", "--count", "2"], "[]"),
        (["tasks", "--count", "2"], '{"task": 1}\n'),
        (["corpus", "--count", "2"], "My thesis.\n"),
    ],
)
def test_data_of_the_world(
    command: list[str], other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x"
    argv = ["world", *command, "-o", str(path)]
    assert run(argv) == 0
    first = path.read_bytes()
    refused(argv, "exists", capsys)
    more = [word if word not in ("2", "5") else "3" for word in argv]
    assert run([*more, "--force"]) == 0
    assert path.read_bytes() != first
    path.write_text(other)
    refused([*argv, "--force"], "was not made by alphaedit", capsys)
    assert path.read_text() == other


def test_pages_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unloaded: None
) -> None:
    (tmp_path / "report.html").write_text("mine")
    refused(["demo", "-o", str(tmp_path)], "was not made by alphaedit", capsys)
    (tmp_path / "results").mkdir()
    refused(
        ["report", str(tmp_path / "results"), "-o", str(tmp_path / "report.html")],
        "not made",
        capsys,
    )
    assert (tmp_path / "report.html").read_text() == "mine"


def test_the_model_is_never_written_to(base: Path, tmp_path: Path) -> None:  # finding 2
    held = snapshot(base / "model")
    for command in ([], ["-o", str(tmp_path / "l")], ["--checkpoint", str(tmp_path / "c")]):
        assert run(words(base, "edit", *FACT, *command)) == 0
    assert snapshot(base / "model") == held
    tensors = AutoModelForCausalLM.from_pretrained(tmp_path / "c").state_dict()
    plain = AutoModelForCausalLM.from_pretrained(base / "model").state_dict()
    assert any(not torch.equal(tensors[name], plain[name]) for name in plain)


def test_gguf_files_of_others_stay(tmp_path: Path) -> None:  # finding 3
    pytest.importorskip("gguf", reason="gguf is not installed: pip install 'alphaedit[gguf]'")
    from tests.tiny_gguf import save_tiny_gguf

    from alphaedit.cli.export_gguf import MODELFILE, places
    from alphaedit.model.gguf import header_of

    base, out = tmp_path / "base.gguf", tmp_path / "x.gguf"
    save_tiny_gguf("llama", base)
    tensors = header_of(base).tensors

    def changed(name: str) -> None:
        data = bytearray(base.read_bytes())
        data[tensors[name].start] ^= 1
        out.write_bytes(data)

    def check() -> None:
        found = places(out, str(base), "gguf", ollama=True)
        check_outputs(str(base), found, force=True)

    changed("blk.1.ffn_down.weight")  # what an edit of the base differs in
    check()
    (tmp_path / MODELFILE).write_text("FROM mine\n")
    with pytest.raises(ConfigError, match=r"Modelfile exists and was not made by alphaedit"):
        check()
    (tmp_path / MODELFILE).unlink()
    changed("blk.1.attn_q.weight")
    with pytest.raises(ConfigError, match=r"x\.gguf exists and was not made by alphaedit"):
        check()
    for data in (b"mine", b"GGUF", base.read_bytes()[:200]):
        out.write_bytes(data)
        with pytest.raises(ConfigError, match="was not made by alphaedit"):
            check()
    with pytest.raises(ConfigError, match="is MODEL"):
        check_outputs(str(base), places(base, str(base), "gguf", ollama=False), force=True)
    adapter = places(out, str(base), "gguf-lora", ollama=False)
    out.write_bytes(base.read_bytes())
    with pytest.raises(ConfigError, match="was not made by alphaedit"):
        check_outputs(str(base), adapter, force=True)
