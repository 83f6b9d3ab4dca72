"""GLAME: target values that know the neighbourhood of the new object (Zhang et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import SLOT, Fact
from alphaedit.methods.base import Problem
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.locate_then_edit import LocateThenEdit
from alphaedit.methods.steps.graph import load_graph
from alphaedit.methods.steps.relational import Maker, Relational
from alphaedit.model.passes.capture import hidden_at

HOPS = 2
MOST_TRIPLES = 20


class WithGraph(Hyperparameters):
    """Settings of a search that knows a graph."""

    graph: str | None = Field(None, description='file of tab-separated triples, or "world"')


def _states(problem: Problem[WithGraph], texts: Sequence[str], layer: int) -> Tensor:
    """Hidden states that leave `layer` at the last token of each text, [n, d_out]."""
    ids = [problem.handle.tokens.encode(text) for text in texts]
    return hidden_at(problem.handle, ids, [len(row) - 1 for row in ids], layer)


def maker(problem: Problem[WithGraph], fact: Fact, layer: int) -> Maker:
    """The encoder of the subgraph around `fact`.

    Raises:
        ConfigError: no graph is given.
        DataError: the graph cannot be read.
    """
    source = problem.hyperparameters.graph
    if source is None:
        raise ConfigError(
            "GLAME needs a knowledge graph.",
            remedy="Give a file of triples, --set graph=triples.tsv, or graph=world for the "
            "bundled models.",
        )
    relation = fact.prompt.replace(SLOT, "").strip()
    triples = load_graph(source).around(
        (fact.subject, relation, fact.target), hops=HOPS, most=MOST_TRIPLES
    )
    entities = list(dict.fromkeys([fact.subject, *(e for s, _, o in triples for e in (s, o))]))
    relations = list(dict.fromkeys(r for _, r, _ in triples))
    node = {name: index for index, name in enumerate(entities)}
    kind = {name: index for index, name in enumerate(relations)}
    return Relational(
        _states(problem, entities, layer),
        _states(problem, relations, layer),
        [(node[s], kind[r], node[o]) for s, r, o in triples],
        rounds=HOPS,
        seed=problem.seed,
    )


METHOD = LocateThenEdit(
    name="glame",
    title="GLAME",
    paper="https://arxiv.org/abs/2402.13593",
    summary="ROME whose target value a relational network makes from a graph around the object.",
    one_by_one=True,
    maker=maker,
    config=WithGraph,
    defaults={"clamp": 4.0, "steps": 20, "learning_rate": 0.01},
)
