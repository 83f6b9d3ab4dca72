"""Options of plug-ins are checked when a plug-in is named, before anything is computed."""

import pytest

from alphaedit.core.errors import ConfigError
from alphaedit.methods.plugin import Plugin, make, options_of, plugins

INF = float("inf")
# By plug-in and option: values that are taken, values that are not.
RANGES: dict[tuple[str, str], tuple[list[float], list[float]]] = {
    ("sphere", "energy"): ([0.1, 1], [0, -0.1, 1.01]),
    ("sphere", "strength"): ([0, 0.8, 1], [9, -0.1]),
    ("rect", "keep"): ([0.4, 1], [0, 1.5]),
    ("nse", "share"): ([0.8, 1], [0, 2]),
    ("prune", "base"): ([1.2, 10], [1, 0, -3]),
    ("queue", "alpha"): ([0, 5], [-1]),
    ("queue", "weight"): ([0, 100], [-1]),
    ("curvature", "energy"): ([0.1, 0.99], [0, 1, -0.1]),
    ("names", "share"): ([0, 0.5, 1], [-0.1, 1.5]),
    ("ridge", "weight"): ([0, 20.0], [-0.5]),
    ("early-stop", "steps"): ([1, 2], [0, -1]),
    ("norm-anchor", "dropped"): ([0, 0.5], [1, -0.1]),
    ("norm-anchor", "skip"): ([0.5, 2], [0, -2]),
    ("refresh-projector", "every"): ([1, 1000], [0, -5]),
    ("refresh-projector", "weight"): ([0, 3000], [-1]),
    ("refresh-projector", "abort"): ([0.1, 20], [0, -1]),
}


# the rest of D: sphere:strength=9
@pytest.mark.parametrize(("name", "option"), RANGES)
def test_ranges(name: str, option: str) -> None:
    good, bad = RANGES[name, option]
    for value in good:
        assert getattr(make(f"{name}:{option}={value}"), option) == value
    for value in bad:
        with pytest.raises(ConfigError, match=f"Plug-in {name}: {option} is {value}") as caught:
            make(f"{name}:{option}={value}")
        assert str(caught.value.remedy).startswith("Give a")
    kind: type[Plugin] = plugins()[name]
    for value in (float("nan"), -INF):
        with pytest.raises(ConfigError):
            kind(**{option: value})
    with pytest.raises(ConfigError, match=option):
        make(f"{name}:{option}=nan")


def test_every_option_has_a_range() -> None:
    own = {n: k for n, k in plugins().items() if k.__module__.startswith("alphaedit.")}
    assert {(n, option) for n, kind in own.items() for option in options_of(kind)} == set(RANGES)


def test_defaults_are_in_range() -> None:
    for name in plugins():
        make(name)
