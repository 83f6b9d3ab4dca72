"""JSON and YAML of others: doubled names, numbers and nests without end are told, not suffered."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

LONGEST_NUMBER = 100
"""Characters; Python itself reads up to 4,300 digits and needs long for them."""
DEEPEST = 50
MOST_ALIASED = 1_000_000
YAML_LIMIT = 8 * 2**20
"""Bytes of YAML that are read at most: half a megabyte takes a second."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A value that stands in a file and means nothing here, as messages tell it."""

    told: str

    def __str__(self) -> str:
        return self.told


class Broken(Exception):
    """Text that cannot be read.

    Attributes:
        problem: what is wrong; a part of a sentence if `line` says where.
        line: from 1.
        column: from 1.
        field: the name that is given twice, if that is the problem.
    """

    def __init__(
        self,
        problem: str,
        *,
        line: int | None = None,
        column: int | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem, self.line, self.column, self.field = problem, line, column, field


def twice(field: str, line: int | None = None) -> Broken:
    """A name that is given twice."""
    return Broken(f"Field {field[:80]!r} is given twice.", line=line, field=field)


def parse_json(text: str, *, unique: bool = False) -> Any:
    """The value of a JSON text; numbers beyond `LONGEST_NUMBER` become `Unread`.

    Args:
        text: the JSON.
        unique: refuse objects that give a name twice.

    Raises:
        Broken: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_int=_whole, object_pairs_hook=_no_doubles if unique else None)
    except json.JSONDecodeError as error:
        raise Broken(error.msg, line=error.lineno, column=error.colno) from None
    except RecursionError:
        raise Broken("nested too deeply") from None


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise twice(key)
        record[key] = value
    return record


def _whole(digits: str) -> Any:
    if len(digits) <= LONGEST_NUMBER:
        return int(digits)
    return Unread(f"a number of {len(digits.lstrip('-'))} digits")


def parse_yaml(text: str) -> Any:
    """The value of a YAML text by YAML's safe tags; values without a meaning become `Unread`.

    Raises:
        Broken: it is no YAML, gives a name twice, is nested more than `DEEPEST` deep, or its
            aliases stand for more than `MOST_ALIASED` values.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = mark.line + 1 if mark else None
        position = getattr(error, "position", None)
        if isinstance(error, yaml.reader.ReaderError) and isinstance(position, int):
            line = text.count("\n", 0, position) + 1
        raise Broken(problem, line=line) from None
    except RecursionError:
        raise Broken("nested too deeply") from None


def _careful(
    read: Callable[[Any, Any], Any], otherwise: str
) -> Callable[[yaml.SafeLoader, yaml.Node], Any]:
    """`read`, which gives `Unread` where it would fail, or work for long."""

    def construct(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode) and len(node.value) > LONGEST_NUMBER:
            return Unread(f"a number of {len(node.value)} digits")
        try:
            return read(loader, node)
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError, IndexError):
            return Unread(f"{otherwise} ({node.value!r})")

    return construct


_SAFE = yaml.constructor.SafeConstructor
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without its traps."""

    yaml_constructors: ClassVar[dict[Any, Any]] = {
        **yaml.SafeLoader.yaml_constructors,
        f"{_TAG}int": _careful(_SAFE.construct_yaml_int, "text that is no number"),
        f"{_TAG}float": _careful(_SAFE.construct_yaml_float, "text that is no number"),
        f"{_TAG}timestamp": _careful(_SAFE.construct_yaml_timestamp, "a date that does not exist"),
        f"{_TAG}bool": _careful(_SAFE.construct_yaml_bool, "text that is no truth value"),
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._aliased = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose, and count how deep and how much it is with aliases written out."""
        line = self.peek_event().start_mark.line + 1
        alias = self.check_event(yaml.events.AliasEvent)
        self._depth += 1
        if self._depth > DEEPEST:
            raise Broken("nested too deeply", line=line)
        before = self._values
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if not alias:
            self._values += 1
            self._sizes[id(node)] = self._values - before
            return node
        size = self._sizes.get(id(node))
        if size is None:
            raise Broken("an alias inside what it stands for", line=line)
        self._values += size
        self._aliased += size
        if self._aliased > MOST_ALIASED:
            raise Broken(f"aliases stand for more than {MOST_ALIASED:,} values", line=line)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose, and refuse names that are given twice."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == f"{_TAG}merge":
                continue
            if (key.tag, key.value) in seen:
                raise twice(key.value, key.start_mark.line + 1)
            seen.add((key.tag, key.value))
        return node
