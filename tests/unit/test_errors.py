"""The error tree and its suggestions."""

import inspect

import pytest

from alphaedit.core import errors
from alphaedit.core.errors import (
    AlphaEditError,
    ConfigError,
    FactError,
    SubjectError,
    UnknownNameError,
    nearest,
    unknown_name,
)


def test_every_error_belongs_to_the_tree() -> None:
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    found = [kind for kind in found if kind.__module__ == errors.__name__]
    found = [kind for kind in found if not issubclass(kind, Warning)]
    assert len(found) == 22
    assert all(issubclass(kind, AlphaEditError) for kind in found)
    assert all(kind.__doc__ for kind in found)


def test_remedy_follows_the_message() -> None:
    error = AlphaEditError("Layer 9 does not exist.", remedy="The model has 8.")
    assert str(error) == "Layer 9 does not exist. The model has 8."
    assert error.remedy == "The model has 8."
    assert str(AlphaEditError("No.")) == "No."


def test_a_fact_error_is_placed_once() -> None:
    error = SubjectError("No subject.", remedy="Add it.", field="subject")
    placed = error.at("a.jsonl, line 3")
    assert str(placed) == "a.jsonl, line 3: No subject. Add it."
    assert isinstance(placed, SubjectError)
    assert (placed.where, placed.field) == ("a.jsonl, line 3", "subject")
    assert placed.at("elsewhere") is placed


def test_unknown_name_suggests_the_nearest() -> None:
    error = unknown_name("method", "AlphEdit", ["rome", "memit", "alphaedit"])
    assert isinstance(error, UnknownNameError)
    assert isinstance(error, ConfigError)
    assert str(error) == (
        "Unknown method 'AlphEdit'. Did you mean 'alphaedit'? Available: rome, memit, alphaedit."
    )


def test_unknown_name_without_anything_near() -> None:
    assert str(unknown_name("method", "zzz", ["rome"])) == "Unknown method 'zzz'. Available: rome."
    assert str(unknown_name("method", "zzz", [])) == "Unknown method 'zzz'. None is available."
    assert str(unknown_name("layer", "x", map(str, range(30)))).endswith("19, ....")


def test_nearest_ignores_case() -> None:
    assert nearest("TARGET", ["target", "truth"]) == ["target"]


@pytest.mark.parametrize("kind", [FactError, SubjectError])
def test_fact_errors_take_place_and_field(kind: type[FactError]) -> None:
    assert str(kind("Wrong.", where="f.csv, line 2", field="target")) == "f.csv, line 2: Wrong."
