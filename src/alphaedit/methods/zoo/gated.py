"""ROME's values behind a gate: wholly at the subject's last token, nothing anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field

from alphaedit.core.change import EVERYWHERE, Change, HookChange
from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.patch import Patch
from alphaedit.linalg.solve import RomeSystem
from alphaedit.methods.base import Needs, Problem, Solution
from alphaedit.methods.config import Hyperparameters, tuned
from alphaedit.methods.locate_then_edit import LocateThenEdit, Run
from alphaedit.methods.solving import refuse_mixtures
from alphaedit.methods.steps.codebook import composed
from alphaedit.methods.steps.gate import Entries, Gate, Place, gated, rows_of
from alphaedit.methods.steps.gate_border import Others, measured
from alphaedit.methods.steps.gate_neurons import as_neurons
from alphaedit.methods.steps.keys import check_finite, prompts_in_context
from alphaedit.methods.steps.router import check_widths
from alphaedit.methods.steps.target_value import Targets
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import keys_at

NAME = "gated"


class GatedSettings(Hyperparameters):
    """Settings of a gate, beside those of the target search."""

    look: int | None = Field(
        None, ge=0, description="which of the layers' keys tell subjects; by default measured"
    )
    gate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="how like its subject's key a token's must be; by default measured",
        json_schema_extra=tuned(1.1),
    )


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """Add values at tokens that end a subject of any edit."""
    undo, places = ExitStack(), [Place.of(change) for change in changes]
    for place in dict.fromkeys(places):
        own = [change for change, its in zip(changes, places, strict=True) if its == place]
        check_widths(own, key=handle.d_in(place.look), value=place.width(handle))
        undo.callback(gated(handle, place, composed(handle, f"{NAME} {place}", own, Gate)))
    return undo.close


@dataclass(frozen=True)
class Gated(LocateThenEdit):
    """One entry a fact, which depends on no other fact: a key to tell its subject by, a value."""

    @property
    def needs(self) -> Needs:
        """Second moments of the layers, and a target search."""
        return Needs(weights=False, linear_system=False, whole_model=True)

    def solve(self, problem: Problem[GatedSettings]) -> Solution:
        """See Method."""
        refuse_mixtures(problem, self.name)
        run, facts = self.run(problem), problem.facts
        hp: GatedSettings = run.problem.hyperparameters  # type: ignore[assignment]
        place = self._place(run, hp)
        targets = self._targets(run, facts, place)
        with run.timer.phase("keys"):
            entries = self._entries(run, facts, place, _system(problem, hp, place.look))
        change = HookChange(
            NAME,
            entries.of,
            rows_of(facts, entries, (targets.values - targets.clean).T),
            options={**place.options(), EVERYWHERE: True},
        )
        state = replace(run.state, edits=problem.state.edits + len(facts), memory=dict(run.memory))
        metadata = state.told([row[-1] for row in targets.losses])
        return Solution(Patch(changes=(change,), metadata=metadata), state, run.timer.seconds)

    def _targets(self, run: Run, facts: Sequence[Fact], place: Place) -> Targets:
        """What leaves the last layer, or, behind a norm or factor, the matrices of all layers."""
        if place.outputs:
            return run.with_plugins(facts, lambda: run.outputs(facts))
        return run.targets(facts, place.layers[-1], None)

    def _entries(
        self, run: Run, facts: Sequence[Fact], place: Place, system: RomeSystem
    ) -> Entries:
        """What the facts' subjects are told by."""
        handle, each, look = run.problem.handle, 1 + len(run.contexts), place.look
        ids, lasts = prompts_in_context(handle, facts, run.contexts)
        keys = keys_at(handle, ids, lasts, [look])[look].view(len(facts), each, -1)
        check_finite("keys", keys.flatten(1).T, facts)
        entries = Entries.made(system, keys[:, 0], keys[:, 1:], lasts[::each])
        others = Others.of(handle, [look])
        worst = others.worst(look, entries, [fact.subject for fact in facts])
        return entries.apart_from(worst, place.least)

    def _place(self, run: Run, hp: GatedSettings) -> Place:
        """Where the gate looks, how like a key must be, and where values go.

        Raises:
            ConfigError: `look` is none of the layers that it may be.
        """
        direct = run.problem.handle.adds_directly
        layers = hp.layers if direct else hp.layers[:1]
        if hp.look is not None and hp.look not in layers:
            raise ConfigError(
                f"look is {hp.look}, and may be {', '.join(map(str, layers))}.",
                remedy="Give one of them, or leave look out: it is then measured.",
            )
        look, least = self._border(run, hp, layers if hp.look is None else (hp.look,))
        return Place(look, hp.layers[-1:] if direct else hp.layers, not direct, least)

    def _border(self, run: Run, hp: GatedSettings, layers: Sequence[int]) -> tuple[int, float]:
        """The layer and the likeness: given, measured before, or now."""
        if len(layers) == 1 and hp.gate is not None:
            return layers[0], hp.gate
        name = f"{NAME}/{' '.join(map(str, layers))}"
        if name not in run.memory:
            with run.timer.phase("gate"):
                border = measured(
                    run.problem.handle,
                    layers,
                    run.contexts,
                    lambda layer: _system(run.problem, hp, layer),
                    progress=run.problem.progress,
                )
            run.memory[name] = torch.tensor(run.problem.ranks.from_first(border)).double()
        look, least = run.memory[name].tolist()
        return int(look), hp.gate or round(least, 3)


def _system(problem: Problem[Any], hp: GatedSettings, layer: int) -> RomeSystem:
    moment = problem.statistics.second_moment(layer)
    return RomeSystem(moment, conditioning=hp.conditioning)


METHOD = Gated(
    name=NAME,
    title="Gated",
    paper="https://arxiv.org/abs/2202.05262",
    summary="ROME's values behind a gate: added where a token's key is a subject's, and nowhere "
    "else. A hook, not a change of weights.",
    config=GatedSettings,
    installs={NAME: install},
    writes={NAME: as_neurons},
    defaults={"conditioning": 0.01},
)
