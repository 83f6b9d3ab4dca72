"""Jobs called from Python: what the command line prints, and what a cancelled one leaves."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from alphaedit import Fact
from alphaedit.bench.experiments import spec as specs
from alphaedit.cli.app import run as cli
from alphaedit.cli.output import to_json
from alphaedit.core.errors import Cancelled, ConfigError, UnknownNameError
from alphaedit.jobs import (
    ability,
    check,
    edit,
    evaluate,
    experiment,
    export,
    merge,
    plan,
    revert,
    stats,
    trace,
    tune,
)
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.ledger.ledger import Ledger

MODEL = "bundled-small"
FACTS = [
    Fact("The mother tongue of {} is", "Danielle Darrieux", "English"),
    Fact("The employer of {} is", "Steve Jobs", "Microsoft"),
]
OVER: dict[str, Any] = {"steps": 4, "contexts": 1}
SET = ["--set", "steps=4", "--set", "contexts=1"]
TIMES = {"seconds", "rate"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Second moments, computed once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    rows = [
        json.dumps({"prompt": f.prompt, "subject": f.subject, "target": f.target}) for f in FACTS
    ]
    Path("facts.jsonl").write_text("\n".join(rows), encoding="utf-8")


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """What a command says with --json; where it writes is moved away."""
    capsys.readouterr()
    cli([*argv, "--json", "--quiet"])
    found = json.loads(capsys.readouterr().out)
    assert "error" not in found, found
    return dict(found)


def same(job: dict[str, Any], command: dict[str, Any]) -> None:
    """Equal values in an equal order, but for times, ids of edits and measured rates."""
    plain = json.loads(to_json(job))
    assert list(plain) == list(command)
    assert _without_times(plain) == _without_times(command, about)


def about(value: float) -> Any:
    """Equal to five digits; rounded, two passes may fall on either side of a half."""
    return pytest.approx(value, abs=1e-5)


def _without_times(value: Any, number: Callable[[float], Any] = float) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v, number) for k, v in value.items() if k not in TIMES}
    if isinstance(value, list):
        return [_without_times(one, number) for one in value]
    if isinstance(value, str):
        return re.sub("[0-9a-f]{16,}", "ID", value)
    return number(value) if isinstance(value, float) else value


def request(**given: Any) -> edit.EditRequest:
    return edit.EditRequest(
        **{"model": MODEL, "facts": FACTS, "hyperparameters": OVER, "batch_size": 1, **given}
    )


def test_edit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    written: list[Path] = []
    found = edit.run(
        request(ledger=Path("one"), report=Path("r.html"), generation=False),
        wrote=written.append,
    )
    argv = ["edit", MODEL, "facts.jsonl", "--batch-size", "1", "-o", "two", "--no-generation"]
    told = printed(capsys, *argv, "--report", "s.html", *SET)
    same(found.to_json() | {"out": "two", "report": "s.html"}, told)
    assert written == [Path("one"), Path("r.html")]
    assert len(Ledger(Path("one")).head.edits) == 2 == len(found.made)
    assert found.editor.edits == list(found.made)
    assert "How it was made" in Path("r.html").read_text(encoding="utf-8")
    with pytest.raises(FrozenInstanceError):
        found.request.seed = 3  # type: ignore[misc]


def test_a_dry_run_keeps_nothing() -> None:
    found = edit.run(request(facts=FACTS[:1], generation=False))
    assert found.to_json()["dry_run"]
    assert list(found.asked) == found.editor.asked(found.facts)  # as if asked once more
    assert [path.name for path in Path().iterdir()] == ["facts.jsonl"]


@pytest.mark.parametrize("transferred", [True, False])
def test_what_a_preset_is_is_told(transferred: bool, capsys: pytest.CaptureFixture[str]) -> None:
    origin = "transferred: a-sister\n" if transferred else ""
    Path("own.yaml").write_text(f"{origin}methods: {{alphaedit: {{layers: [1], energy: 0.9}}}}\n")
    argv = ["edit", MODEL, "facts.jsonl", "--preset", "own.yaml", "--no-generation", *SET]
    assert printed(capsys, *argv)["preset"] == "own.yaml"
    cli([*argv, "--quiet"])
    assert ("comes from a-sister" in capsys.readouterr().out) == transferred


def stop_after(phase: str, done: int) -> tuple[Cancel, Callable[[str, int, int], None]]:
    """A switch that is set once so much of a phase is reported."""
    cancel = Cancel()

    def progress(name: str, at: int, total: int) -> None:
        if (name, at) == (phase, done):
            cancel.set()

    return cancel, progress


def test_cancelled_between_two_batches() -> None:
    cancel, progress = stop_after("facts", 1)
    written: list[Path] = []
    with pytest.raises(Cancelled) as stopped:
        edit.run(
            request(ledger=Path("ledger"), generation=False),
            progress=progress,
            cancel=cancel,
            wrote=written.append,
        )
    ledger = Ledger(Path("ledger"))
    (first,) = ledger.head.edits
    kept, _ = ledger.read(first)
    assert list(kept.facts) == FACTS[:1]
    assert written == [Path("ledger")]
    assert stopped.value.remedy
    assert first in " ".join(stopped.value.__notes__)
    # The same ledger goes on.
    rest = edit.run(request(facts=FACTS[1:], ledger=Path("ledger"), generation=False))
    assert rest.editor.edits[0].id == first
    assert len(Ledger(Path("ledger")).head.edits) == 2


def test_a_switch() -> None:
    told: list[tuple[str, int, int]] = []
    cancel = Cancel()
    report = watched(lambda *one: told.append(one), cancel)
    report("x", 1, 2)
    cancel.check()
    cancel.set()
    with pytest.raises(Cancelled, match="cancelled"):
        report("x", 2, 2)
    assert told == [("x", 1, 2)]
    plain = lambda *one: None  # noqa: E731
    assert watched(plain, None) is plain


def test_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = evaluate.EvaluateRequest(
        model=MODEL,
        records="world",
        edits=4,
        batch_size=2,
        every=1,
        generation=False,
        hyperparameters=OVER,
    )
    found = evaluate.run(wanted)
    argv = ["eval", MODEL, "world", "--edits", "4", "--batch-size", "2", "--every", "1"]
    same(found.to_json(), printed(capsys, *argv, "--no-generation", *SET))
    cancel, progress = stop_after("batches", 1)
    with pytest.raises(Cancelled):
        evaluate.run(wanted, progress=progress, cancel=cancel)


def test_trace(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = trace.TraceRequest(
        model=MODEL, count=2, samples=2, suggest_layers=True, plot=Path("a.svg")
    )
    found = trace.run(wanted)
    argv = ["trace", MODEL, "--count", "2", "--samples", "2", "--suggest-layers"]
    told = printed(capsys, *argv, "--plot", "b.svg")
    same(found.to_json() | {"plot": "b.svg"}, told)
    assert Path("a.svg").is_file()
    for wrong in ({"noise": 0.0}, {"kind": "x"}, {"window": 3}):
        with pytest.raises(ConfigError):
            replace(wanted, **wrong)


def test_tune(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = tune.TuneRequest(
        model=MODEL, facts=FACTS, out=Path("a.yaml"), pilots=2, trials=1, hyperparameters=OVER
    )
    found = tune.run(wanted)
    argv = ["tune", MODEL, "facts.jsonl", "-o", "b.yaml", "--pilots", "2", "--trials", "1", *SET]
    told = printed(capsys, *argv)
    same(found.to_json() | {"preset": "b.yaml", "log": "b.yaml.trials.jsonl"}, told)
    assert Path("a.yaml").is_file()
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        tune.run(replace(wanted, out=Path("c.yaml")), cancel=cancel)
    assert not Path("c.yaml").exists()


def test_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"models": [MODEL], "edits": 2, "batch_size": 1, "methods": ["memit"]}
    spec = specs.load("main-table", fields)
    wanted = experiment.ExperimentRequest(spec=spec, out=Path("a"))
    cancel, progress = stop_after("facts", 1)
    with pytest.raises(Cancelled):
        experiment.run(wanted, progress=progress, cancel=cancel)
    found = experiment.run(wanted)  # goes on
    assert not found.failed
    argv = ["experiment", "main-table", "--model", MODEL, "--set", "edits=2"]
    told = printed(capsys, *argv, "--set", "batch_size=1", "--set", "methods=[memit]", "-o", "b")
    same(found.to_json() | {"directory": "b", "report": "b/report.html"}, told)


def test_jobs_on_a_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    edit.run(request(ledger=Path("mine"), generation=False))
    more = [Fact("The site of {} is", "Eiffel Tower", "Rome")]
    edit.run(request(ledger=Path("other"), facts=more, generation=False))
    wanted = export.ExportRequest(ledger=Path("mine"), out=Path("a"))
    found = export.run(wanted)
    same(found.to_json() | {"out": "b"}, printed(capsys, "export", "mine", "-o", "b"))
    with pytest.raises(UnknownNameError):
        replace(wanted, form="x")

    asked = check.run(check.CheckRequest(model=MODEL, facts=FACTS, edits=Path("mine")))
    same(asked.to_json(), printed(capsys, "check", MODEL, "facts.jsonl", "--edits", "mine"))

    shutil.copytree("mine", "copy")
    merged = merge.run(merge.MergeRequest(ledger=Path("mine"), other=Path("other")))
    assert merged.entry is not None
    assert len(merged.asked) == 3
    told = printed(capsys, "merge", "copy", "other")
    same(merged.to_json() | {"ledger": "copy"}, told)

    reverted = revert.run(revert.RevertRequest(ledger=Path("mine"), count=2))
    assert len(reverted.left) == 1
    told = printed(capsys, "revert", "copy", "-n", "2")
    same(reverted.to_json() | {"ledger": "copy"}, told)


def test_jobs_that_measure(capsys: pytest.CaptureFixture[str]) -> None:
    found = stats.run(stats.StatsRequest(model=MODEL, layers=(1,), energy=0.9))
    argv = ["stats", MODEL, "--layers", "1", "--energy", "0.9"]
    same(found.to_json(), printed(capsys, *argv))
    with pytest.raises(ConfigError):
        stats.StatsRequest(model=MODEL, energy=0.9, threshold=0.1)

    scores = ability.run(ability.AbilityRequest(model=MODEL, count=2))
    same(scores.to_json(), printed(capsys, "ability", MODEL, "--count", "2"))
    with pytest.raises(ConfigError):
        ability.AbilityRequest(model=MODEL, harness=["x"], tasks=["rte"])

    planned = plan.run(plan.PlanRequest(model=MODEL, facts=FACTS, on=["h100"])).to_json()
    told = printed(capsys, "plan", MODEL, "facts.jsonl", "--on", "h100")
    assert list(planned) == list(told)
    assert planned["shape"]["dtype"] == told["shape"]["dtype"]
    assert list(planned["machines"]["h100"]) == list(told["machines"]["h100"])


def test_requests_are_made_without_pytorch() -> None:
    code = (
        "import pkgutil, sys, importlib, alphaedit.jobs as jobs\n"
        "for one in pkgutil.iter_modules(jobs.__path__):\n"
        "    importlib.import_module(f'alphaedit.jobs.{one.name}')\n"
        "print({'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
