"""Experiments: their settings, their directories, and the page about them."""

import json
from pathlib import Path
from typing import Any

import pytest

from alphaedit.bench.experiments import published
from alphaedit.bench.experiments.categories import CATEGORIES, category_of
from alphaedit.bench.experiments.cells import cells
from alphaedit.bench.experiments.measures import measures
from alphaedit.bench.experiments.runner import check
from alphaedit.bench.experiments.spec import build, load, names, parse_overrides
from alphaedit.bench.experiments.store import RunDirectory
from alphaedit.bench.intervals import Rate
from alphaedit.cli.app import run
from alphaedit.core.errors import AlphaEditError, ConfigError, DataError, UnknownNameError
from alphaedit.report.charts import CHARTS
from alphaedit.report.experiment import report
from alphaedit.report.results import Column, metrics_of, over_seeds, ranks, read

SMALL: dict[str, Any] = {
    "name": "mine",
    "title": "Mine",
    "question": "Does it run?",
    "methods": ["memit", {"method": "memit", "plugins": ["project"], "set": {"energy": 0.9}}],
    "edits": 4,
    "batch_size": 2,
}


def test_every_experiment_can_be_run() -> None:
    assert {"main-table", "general-ability", "hidden-shift", "plug-in", "scale"} <= set(names())
    for name in names():
        spec = load(name)
        assert spec.name == name
        check(spec)
        assert set(spec.pictures) <= set(CHARTS)
        if spec.published:
            assert published.figures(spec.published)["rows"]


def test_published_figures_are_whole() -> None:
    for table in published.tables().values():
        assert table["source"].startswith("AlphaEdit (arXiv 2410.02355), Table")
        for row in table["rows"]:
            assert len(row["values"]) == len(table["metrics"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metods": []}, "'metods'"),
        ({"methods": []}, "methods"),
        ({"edits": 0}, "edits"),
        ({"methods": ["memit", "memit"]}, "two methods are called 'memit'"),
        ({"methods": ["memitt"]}, "'memitt'"),
        ({"methods": [{"method": "memit", "plugins": ["projekt"]}]}, "'projekt'"),
        ({"methods": [{"method": "memit", "set": {"clampp": 1}}]}, "'clampp'"),
        ({"measures": ["editz"]}, "'editz'"),
        ({"at": [2, 0]}, "1 or more"),
        ({"vary": {"name": "tokens", "values": [0.5]}}, "whole numbers"),
        ({"vary": {"name": "enrgy", "values": [0.5]}}, "'enrgy'"),
        ({"vary": {"name": "energy", "values": [1.5]}}, "energy"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AlphaEditError) as caught:
        check(build({**SMALL, **change}, "mine"))
    assert message in str(caught.value)


def test_overrides() -> None:
    given = parse_overrides(["edits=7", "seeds=[0, 1]", "batch-size=3", "measures=edits,drift"])
    spec = load("main-table", given)
    assert (spec.edits, spec.seeds, spec.batch_size) == (7, (0, 1), 3)
    assert spec.measures == ("edits", "drift")
    for pair, message in (("edits", "FIELD=VALUE"), ("x=1", "'x'"), ("edits=[", "not YAML")):
        with pytest.raises(ConfigError, match=message):
            parse_overrides([pair])
    with pytest.raises(UnknownNameError, match="main-tabel"):
        load("main-tabel")


def test_cells_are_all_combinations_and_told_apart() -> None:
    spec = build(
        {
            **SMALL,
            "seeds": [0, 1],
            "models": ["a", "b"],
            "vary": {"name": "clamp", "values": [1, 2]},
        },
        "mine",
    )
    made = list(cells(spec))
    assert len(made) == 2 * 2 * (1 + 2 * 2)
    assert len({cell.id for cell in made}) == len(made)
    assert made[0].method.method == "none"
    last = made[-1]
    assert last.settings == {"plugins": ("project",), "energy": 0.9, "clamp": 2}
    assert last.tags["method"] == "memit + project"
    assert last.label == "memit + project, clamp 2"


def directory(path: Path, values: dict[str, list[float]], **change: Any) -> RunDirectory:
    """Results with the given efficacy of methods, one value a seed."""
    seeds = list(range(max(map(len, values.values()))))
    spec = build({**SMALL, "methods": [*values], "seeds": seeds, **change}, "mine")
    made = RunDirectory(path)
    made.begin(spec, {"command": "alphaedit experiment mine", "versions": {"torch": "2"}})
    for cell in cells(spec):
        value = values[cell.method.method][cell.seed] if cell.method.method in values else 0.0
        for edits in (2, 4) if cell.method.method != "none" else (0,):
            row = {**cell.tags, "edits": edits, "metric": "efficacy", "value": value}
            more = {**row, "metric": "perplexity", "value": 100 - value}
            numbers = {"low": value - 1, "high": value + 1, "n": 10}
            made.add(cell, edits, [{**row, **numbers}, {**more, **numbers}], None)
        state = {"finished": True, "error": None, "edits": 4, "batches": [{"targets": 2.0}]}
        made.set_state(cell, state)
    return made


def test_results_are_averaged_and_ranked(tmp_path: Path) -> None:
    directory(tmp_path / "run", {"memit": [80.0, 90.0], "rome": [70.0, 70.0]})
    (results,) = read([tmp_path / "run"])
    (group,) = results.groups
    assert [c.label for c in group.columns] == ["unedited", "memit", "rome"]
    memit = group.columns[1]
    assert memit.numbers["efficacy"].value == 85
    # Student's t with one degree of freedom: 12.706 * (sqrt(50) / sqrt(2)).
    assert memit.numbers["efficacy"].high == pytest.approx(85 + 12.706 * 5, rel=1e-4)
    assert list(memit.curve) == [2, 4]
    assert memit.seconds == {"targets": pytest.approx(50.0)}
    assert ranks(group.edited, "efficacy") == {"memit": 1, "rome": 2}
    assert ranks(group.edited, "perplexity") == {"memit": 1, "rome": 2}
    one = over_seeds([{"value": 5.0, "low": None, "high": None, "n": None}])
    assert one == Rate(5.0, 5.0, 5.0, 0)


def test_equal_values_share_a_rank(tmp_path: Path) -> None:
    directory(tmp_path / "run", {"memit": [80.01], "rome": [80.04], "ft": [10.0]})
    (results,) = read([tmp_path / "run"])
    assert ranks(results.groups[0].edited, "efficacy") == {"memit": 1, "rome": 1, "ft": 2}


def test_a_page_of_several_runs_marks_what_does_not_compare(tmp_path: Path) -> None:
    directory(tmp_path / "a", {"memit": [80.0], "rome": [70.0]}, pictures=["curves", "runtime"])
    directory(tmp_path / "b", {"memit": [80.0]}, batch_size=4)
    page = report([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html").read_text()
    assert page.count("Not comparable with") == 1
    assert "batch size 4 here, 2 there" in page
    assert "alphaedit experiment mine" in page
    assert 'class="first">80.0' in page
    for name in ("curves.svg", "curves.png", "runtime.svg", "runtime.png"):
        assert (tmp_path / "a" / "pictures" / name).stat().st_size > 1000


def test_failures_and_unfinished_runs_are_marked(tmp_path: Path) -> None:
    made = directory(tmp_path / "run", {"memit": [80.0], "rome": [70.0]})
    chosen = list(cells(build({**SMALL, "methods": ["memit", "rome"]}, "mine")))
    made.set_state(chosen[1], {"finished": True, "error": "no <null> space", "edits": 0})
    (made.folder(chosen[2]) / "cell.json").unlink()
    page = report([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "failed: no &lt;null&gt; space" in page
    assert f"Not finished: {chosen[2].id}" in page


def test_a_run_from_before_a_field_came_goes_on(tmp_path: Path) -> None:
    made = directory(tmp_path / "run", {"memit": [80.0]})
    path = tmp_path / "run" / "manifest.json"
    stored = json.loads(path.read_text())
    del stored["experiment"]["at"]
    path.write_text(json.dumps(stored))
    seeds = {"methods": ["memit"], "seeds": [0]}
    made.begin(build({**SMALL, **seeds}, "mine"), {})
    with pytest.raises(DataError, match="another configuration: at differ"):
        made.begin(build({**SMALL, **seeds, "at": [2]}, "mine"), {})


def test_broken_directories(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        read([tmp_path])
    made = directory(tmp_path / "run", {"memit": [80.0]})
    with pytest.raises(DataError, match="another configuration: edits differ"):
        made.begin(build({**SMALL, "methods": ["memit"], "edits": 9}, "mine"), {})
    rows = next((tmp_path / "run").glob("cells/*/rows-000004.jsonl"))
    rows.write_text(rows.read_text()[:-30])
    with pytest.raises(DataError, match="line 2"):
        read([tmp_path / "run"])
    (tmp_path / "run" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read([tmp_path / "run"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        RunDirectory(tmp_path / "other").begin(build(SMALL, "mine"), {})


def test_listing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["experiment", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["experiments"]
    assert [one["name"] for one in listed] == names()
    assert run(["experiment", "--list"]) == 0
    assert "hidden-shift" in capsys.readouterr().out
    assert run(["experiment", "nothing", "--json"]) == 1
    assert "nothing" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_categories() -> None:
    listed = [relation for relations in CATEGORIES.values() for relation in relations]
    assert len(listed) == len(set(listed))
    assert category_of("P103") == "language"
    assert category_of("P9999") == "other"


def test_measures_have_names() -> None:
    assert {"edits", "generation", "shift", "ability", "drift", "retention"} <= set(measures())


def test_a_table_shows_metrics_that_it_does_not_know() -> None:
    rate = Rate(50.0, 40.0, 60.0, 10)
    names = ("new_probability", "kept", "efficacy:places", "shift", "efficacy", "a_new_one")
    column = Column("memit", "memit", "", (), dict.fromkeys(names, rate), {})
    assert metrics_of([column]) == ["efficacy", "kept", "a_new_one", "new_probability"]
