"""The benchmarks of learned editors and of long targets: rows, what is pooled, and their pages."""

import json
from pathlib import Path

import pytest
from benchmarks import learned, learned_data, learned_page, longform, machine

from alphaedit.bench.intervals import Rate
from alphaedit.editor.session import Editor


def test_rows_that_stand_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    path = tmp_path / "learned-quick.json"
    path.write_text(json.dumps({"small": {"mend": {"figures": {"efficacy": [1.0, 0.0, 2.0]}}}}))
    learned.main(["--quick", "--part", "small", "--row", "unedited"])
    rows = json.loads(path.read_text(encoding="utf-8"))["small"]
    assert list(rows) == ["unedited", "mend"]
    assert rows["mend"]["figures"] == {"efficacy": [1.0, 0.0, 2.0]}
    assert rows["unedited"]["figures"]["efficacy"][0] == 0.0


def test_figures_some_at_a_time_are_those_of_edits_alone() -> None:
    editor = Editor.from_pretrained("bundled-small", seed=0, progress=False)
    records = learned_data.rows_of("small", editor.handle, quick=True)["small"][:5]
    plan = learned_data.PLANS["small"]["mend, until 0.69"]
    few = learned.by_network(editor, plan, records, plan.settings)["figures"]
    alone = learned.each_alone(editor, plan, records, plan.settings)["figures"]
    assert {name: alone[name] for name in few} == few


def test_what_is_edited_is_not_trained_on() -> None:
    handle = Editor.from_pretrained("bundled-small", seed=0, progress=False).handle
    edited = {r.subject for r in learned_data.rows_of("fours", handle, quick=False)["fours"]}
    assert len(edited) == learned_data.LONG_SEQUENCE
    trained = {fact.subject for fact in learned_data.facts_named("apart", handle, quick=False)}
    assert not edited & trained
    tasks = learned_data.rows_of("tasks", handle, quick=True)
    alone = {record.subject for records in tasks.values() for record in records}
    facts = learned_data.facts_named("tasks", handle, quick=False)
    assert not alone & {fact.subject for fact in facts}
    assert {fact.id.partition("/")[0] for fact in facts if fact.id} == {
        "statement",
        "noun",
        learned_data.LEFT_OUT,
    }


def test_shares_are_pooled_over_prompts() -> None:
    parts = [
        {"efficacy": Rate(100.0, 0, 0, 1), "specificity": Rate(25.0, 0, 0, 4), "x": None},
        {"efficacy": Rate(0.0, 0, 0, 1), "specificity": Rate(100.0, 0, 0, 2), "x": None},
    ]
    whole = learned.pooled(parts)
    assert whole["efficacy"] is not None
    assert whole["efficacy"].value == 50
    assert whole["specificity"] is not None
    assert whole["specificity"].value == 50
    assert whole["specificity"].n == 6
    shares = learned.pooled([{"x": Rate(200 / 3, 0, 0, 1)}, {"x": Rate(100.0, 0, 0, 1)}])
    assert shares["x"] is not None
    assert shares["x"].value == pytest.approx(250 / 3)


def test_long_targets_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    longform.main(["--quick", "--method", "unedited"])
    rows = json.loads((tmp_path / "longform-quick.json").read_text(encoding="utf-8"))["world"]
    assert rows["about"]["records"] == longform.QUICK
    assert "rouge_l_rewrite" in rows["rows"]["unedited"]["figures"]


@pytest.mark.parametrize(
    ("page", "tables"),
    [
        (learned_page.PAGE, learned_page.learned_tables),
        (learned_page.LONG_PAGE, learned_page.long_tables),
    ],
)
def test_tables_are_those_of_the_results(page: Path, tables: object) -> None:
    assert callable(tables)
    text = page.read_text(encoding="utf-8")
    for name, table in tables().items():
        assert f"<!-- {name} -->\n{table}\n<!-- end -->" in text, name
