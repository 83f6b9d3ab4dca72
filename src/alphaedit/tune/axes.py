"""What of a method's hyperparameters is searched, and the steps from one setting to the next.

Of methods that change weights it is known; of others, their settings say it
(`methods.config.tuned`), and the method itself says what goes with another layer
(`Method.suggest`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from alphaedit.locate.preset import needs_space
from alphaedit.methods.base import Method
from alphaedit.methods.config import Hyperparameters, Settings, tuned_fields

Values = dict[str, Any]
Move = Callable[[Values], Values | None]
"""From values to changed values; None where there is no step that way."""

ENERGIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
Suggest = Callable[[tuple[int, ...]], Mapping[str, Any]]
"""Settings that a method finds by looking at a model, for given layers."""
REACH = 2
"""Layers before and after the first choice that are looked at."""


def axes(
    method: Method, start: Hyperparameters, n_layers: int, fixed: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[Move, ...]]]:
    """Names of what is searched with the moves along each, most telling first.

    What is in `fixed` is left alone.
    """
    needs = method.needs
    low = max(0, start.layers[0] - REACH)
    high = min(n_layers - 1, start.layers[-1] + REACH)
    searched: list[tuple[str, tuple[Move, ...]]] = []
    if needs.layers == "one":
        searched.append(("layers", (_shift(-1, low, high), _shift(1, low, high))))
    elif needs.layers == "several":
        shorter, longer = _shorter, _longer(low)
        searched.append(("layers", (_shift(-1, low, high), _shift(1, low, high), longer, shorter)))
    if needs.target_search:
        searched.append(("clamp", _times("clamp", 1.5)))
    searched.append(("learning_rate", _times("learning_rate", 2.0)))
    if needs_space(method, fixed):
        if start.threshold is not None:
            searched.append(("threshold", _times("threshold", 3.0)))
        else:
            searched.append(("energy", (_ladder(1), _ladder(-1))))
    if needs.ridge:
        name = "ridge" if start.ridge_share is None else "ridge_share"
        searched.append((name, _times(name, 3.0)))
    if needs.moment:
        searched.append(("moment_weight", _times("moment_weight", 3.0)))
    if "bound" in type(start).model_fields:
        searched.append(("bound", _times("bound", 2.0)))
    searched.append(("steps", (_steps(2.0), _steps(0.5))))
    pairs = {"threshold": "energy", "energy": "threshold", "ridge": "ridge_share"}
    for name, moves in searched:
        if name not in fixed and pairs.get(name) not in fixed:
            yield name, moves


def own_axes(
    start: Settings, n_layers: int, fixed: Mapping[str, Any], suggest: Suggest
) -> Iterator[tuple[str, tuple[Move, ...]]]:
    """The same for methods whose settings say what is tuned: hooks and memories.

    Distances are other ones at another layer: with a layer goes what the method suggests there,
    times what the search has made of the suggestion so far.
    """
    marked = {
        name: by
        for name, by in tuned_fields(type(start)).items()
        if name not in fixed and getattr(start, name) is not None
    }
    if len(start.layers) == 1 and "layers" not in fixed:
        low, high = max(0, start.layers[0] - REACH), min(n_layers - 1, start.layers[0] + REACH)
        moves = [_with_suggested(_shift(by, low, high), list(marked), suggest) for by in (-1, 1)]
        yield "layers", tuple(moves)
    for name, by in marked.items():
        whole = isinstance(getattr(start, name), int)
        yield name, (_whole_times(name, by) if whole else _times(name, by))


def _with_suggested(shift: Move, names: list[str], suggest: Suggest) -> Move:
    def move(values: Values) -> Values | None:
        moved = shift(values)
        if moved is None:
            return None
        here, there = suggest(tuple(values["layers"])), suggest(tuple(moved["layers"]))
        own = [name for name in names if here.get(name) and there.get(name)]
        scaled = {name: values[name] * there[name] / here[name] for name in own}
        return {**moved, **{name: float(f"{value:.4g}") for name, value in scaled.items()}}

    return move


def _whole_times(name: str, factor: float) -> tuple[Move, Move]:
    def scaled(by: float) -> Move:
        def move(values: Values) -> Values | None:
            number = round(values[name] * by)
            return {**values, name: number} if number != values[name] else None

        return move

    return scaled(factor), scaled(1 / factor)


def reachable(start: Hyperparameters, n_layers: int) -> tuple[int, ...]:
    """All layers that the search may come to."""
    low = max(0, start.layers[0] - REACH)
    return tuple(range(low, min(n_layers - 1, start.layers[-1] + REACH) + 1))


def _shift(by: int, low: int, high: int) -> Move:
    def move(values: Values) -> Values | None:
        layers = tuple(layer + by for layer in values["layers"])
        return {**values, "layers": layers} if low <= layers[0] and layers[-1] <= high else None

    return move


def _longer(low: int) -> Move:
    def move(values: Values) -> Values | None:
        first = values["layers"][0] - 1
        return {**values, "layers": (first, *values["layers"])} if first >= low else None

    return move


def _shorter(values: Values) -> Values | None:
    layers = values["layers"][1:]
    return {**values, "layers": layers} if layers else None


def _times(name: str, factor: float) -> tuple[Move, Move]:
    def scaled(by: float) -> Move:
        # Rounded, so that up and down again is the same setting.
        return lambda values: {**values, name: float(f"{values[name] * by:.4g}")}

    return scaled(factor), scaled(1 / factor)


def _ladder(by: int) -> Move:
    def move(values: Values) -> Values | None:
        now = values["energy"]
        beyond = [e for e in ENERGIES if (e > now if by > 0 else e < now)]
        if not beyond:
            return None
        return {**values, "energy": min(beyond) if by > 0 else max(beyond)}

    return move


def _steps(factor: float) -> Move:
    def move(values: Values) -> Values | None:
        steps = round(values["steps"] * factor)
        return {**values, "steps": steps} if 5 <= steps <= 200 else None

    return move
