"""Knowledge graphs from files, and the part around an edit."""

from pathlib import Path

import pytest
import torch

from alphaedit.core.errors import DataError
from alphaedit.methods.steps.graph import Graph, load_graph
from alphaedit.methods.steps.relational import Free, Relational


def test_a_file_of_triples(tmp_path: Path) -> None:
    path = tmp_path / "g.tsv"
    path.write_text("Paris\tcapital of\tFrance\n\nFrance\tcontinent\tEurope\n", encoding="utf-8")
    graph = load_graph(str(path))
    assert graph.outgoing["France"] == [("continent", "Europe")]


@pytest.mark.parametrize("line", ["Paris\tcapital of", "Paris\tcapital of\t ", "\tx\ty"])
def test_a_dangling_triple_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "g.tsv"
    path.write_text(f"a\tb\tc\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2: a triple dangles"):
        load_graph(str(path))


def test_missing_and_empty_graphs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_graph(str(tmp_path / "none.tsv"))
    (tmp_path / "empty.tsv").write_text("\n")
    with pytest.raises(DataError, match="no triples"):
        load_graph(str(tmp_path / "empty.tsv"))


def test_the_world_is_a_graph() -> None:
    assert ("capital", "Paris") in load_graph("world").outgoing["France"]


def test_around_takes_the_new_objects_neighbourhood_first() -> None:
    graph = Graph.of(
        [
            ("B", "in", "C"),
            ("C", "in", "D"),
            ("D", "in", "E"),
            ("A", "likes", "X"),
            ("Q", "is", "R"),
        ]
    )
    found = graph.around(("A", "lives in", "B"), hops=2, most=10)
    assert found[0] == ("A", "lives in", "B")
    assert set(found[1:]) == {("B", "in", "C"), ("C", "in", "D"), ("A", "likes", "X")}
    assert graph.around(("A", "lives in", "B"), hops=2, most=2) == found[:2]


def test_deltas_start_at_zero_move_and_stay_within_the_limit() -> None:
    generator = torch.Generator().manual_seed(0)
    nodes, relations = (
        torch.randn(3, 8, generator=generator),
        torch.randn(1, 8, generator=generator),
    )
    made = Relational(nodes, relations, [(0, 0, 1), (1, 0, 2)], rounds=2, seed=0)
    for maker in (made, Free(torch.zeros(1, 8))):
        assert not maker.delta().any()
        adam = torch.optim.Adam(list(maker.parameters), lr=0.5)
        for _ in range(3):
            adam.zero_grad()
            (maker.delta() - 5).square().sum().backward()
            adam.step()
            maker.restrain(torch.tensor([2.0]))
        assert 0 < float(maker.delta().detach().norm()) <= 2.0 + 1e-5
