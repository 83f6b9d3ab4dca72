"""Knowledge graphs as triples, and the part of one around an edit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alphaedit.core.errors import DataError
from alphaedit.core.reading import read_text

Triple = tuple[str, str, str]
WORLD = "world"


@dataclass(frozen=True)
class Graph:
    """Triples (subject, relation, object) by subject."""

    outgoing: Mapping[str, Sequence[tuple[str, str]]]

    @classmethod
    def of(cls, triples: Iterable[Triple]) -> Graph:
        """A graph of these triples."""
        outgoing: dict[str, list[tuple[str, str]]] = {}
        for subject, relation, value in triples:
            outgoing.setdefault(subject, []).append((relation, value))
        return cls(outgoing)

    def around(self, fact: Triple, *, hops: int, most: int) -> list[Triple]:
        """`fact`, then the nearest triples within `hops` steps of its object, at most `most`.

        What the graph says of the fact's subject under the same relation is what is edited, and
        stays out; its other triples are taken up after those of the object.
        """
        subject, _, value = fact
        triples = [fact]
        queue = deque([(value, 1), (subject, hops)])
        seen = {subject, value}
        while queue and len(triples) < most:
            node, depth = queue.popleft()
            for relation, other in self.outgoing.get(node, ()):
                if node == subject and other == value:
                    continue
                triples.append((node, relation, other))
                if depth < hops and other not in seen:
                    seen.add(other)
                    queue.append((other, depth + 1))
        return triples[:most]


def load_graph(source: str) -> Graph:
    """The graph "world" (the bundled facts), or that of a file of tab-separated triples.

    Raises:
        DataError: the file is missing or no text, or a line has a node or relation missing; it is
            named.
    """
    if source == WORLD:
        from alphaedit.world.facts import World

        world = World.load()
        names = {key: relation.name for key, relation in world.relations.items()}
        return Graph.of((f.subject, names[f.relation], f.object) for f in world.facts)
    lines = read_text(source, error=DataError, what="Graph").split("\n")
    triples: list[Triple] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 3 or not all(parts):
            raise DataError(
                f"{source}, line {number}: a triple dangles: {line!r}.",
                remedy="Write subject, relation and object, separated by tabs.",
            )
        triples.append((parts[0], parts[1], parts[2]))
    if not triples:
        raise DataError(f"The graph {source} has no triples.", remedy="Give at least one.")
    return Graph.of(triples)
