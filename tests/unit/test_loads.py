"""The table of candidates for a default: what is measured is kept, and the page says just that."""

import json
from pathlib import Path

import pytest
from benchmarks import loads, loads_page

from alphaedit.bench.intervals import Rate


@pytest.mark.filterwarnings("ignore::alphaedit.core.errors.AlphaEditWarning")
def test_targets_that_methods_share_are_those_of_their_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loads, "RESULTS", tmp_path)
    asked = ["--quick", "--draws", "2", "--method", "unedited", "memit-names"]
    loads.main([*asked, "--targets", str(tmp_path / "targets")])
    file = tmp_path / "loads-quick.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    measured = {(row["method"], row["draw"], row["edits"]) for row in rows}
    # The first draw goes on to the largest load.
    numbers = ((0, 3), (0, 6), (0, 9), (1, 3), (1, 6))
    assert measured == {(m, *n) for m in ("unedited", "memit-names") for n in numbers}
    assert len(rows) == len(measured)
    loads.main(asked)
    assert len(file.read_text(encoding="utf-8").splitlines()) == len(rows)

    loads.main(["--quick", "--own", "--draws", "1", "--method", "memit-names"])
    own = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][len(rows) :]
    assert [row["edits"] for row in own] == [3, 6, 9]
    first = next(row for row in rows if (row["method"], row["edits"]) == ("memit-names", 3))
    assert own[0] == {**first, "own": True}


def test_best_and_what_is_within_its_interval() -> None:
    shares = {
        "a": Rate(99.0, 95.0, 100.0, 1),
        "b": Rate(95.5, 92.0, 98.0, 1),
        "c": Rate(90.0, 85.0, 94.0, 1),
    }
    assert loads_page.good(shares, "efficacy") == {"a", "b"}
    assert loads_page.good(shares, "kl") == {"c"}


def test_draws_are_averaged_and_their_interval_shrinks() -> None:
    rows = [{"kept": [90.0, 80.0, 100.0], "kl": 0.1}, {"kept": [94.0, 84.0, 104.0], "kl": 0.3}] * 2
    kept = loads_page.over_draws(rows, "kept")
    assert (kept.value, kept.low, kept.high) == pytest.approx((92.0, 87.0, 97.0))
    assert loads_page.over_draws(rows, "kl").value == pytest.approx(0.2)


def test_page_holds_the_results() -> None:
    text = loads_page.PAGE.read_text(encoding="utf-8")
    tables = loads_page.tables()
    assert tables
    for name, table in tables.items():
        assert f"<!-- {name} -->\n{table}\n<!-- end -->" in text, name
    gated = loads_page.GATED.read_text(encoding="utf-8")
    assert f"<!-- gated -->\n{loads_page.gated_table()}\n<!-- end -->" in gated
