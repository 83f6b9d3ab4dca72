"""One batch of edits: choose, prepare, ask, solve, ask again, record."""

from __future__ import annotations

import datetime
import gc
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any, cast

import psutil

from alphaedit.core.arguments import as_text, each_of
from alphaedit.core.bars import as_progress
from alphaedit.core.edit import Answer, Edit, edit_id
from alphaedit.core.errors import AlphaEditWarning, ConfigError, GuardError, ResourceError
from alphaedit.core.fact import Fact
from alphaedit.core.patch import LowRank, Patch
from alphaedit.core.progress import Progress
from alphaedit.core.ranks import ALONE, Ranks
from alphaedit.editor.guard import Guard
from alphaedit.editor.inputs import as_guard, as_seed
from alphaedit.editor.measured import Asked, ask_facts
from alphaedit.editor.standard import method_for
from alphaedit.editor.verdict import repeated
from alphaedit.editor.versioned import Versioned, check_kind
from alphaedit.locate.preset import Measured, choose, in_a_row
from alphaedit.methods.base import Method, Problem, Solution
from alphaedit.methods.config import Hyperparameters, Settings
from alphaedit.methods.given import settings_given
from alphaedit.methods.plugin import needs_moments, statistics_for
from alphaedit.methods.state import SequentialState
from alphaedit.methods.steps.budget import check_budget
from alphaedit.methods.systems import Systems
from alphaedit.methods.timer import Timer
from alphaedit.model.chat import in_chat
from alphaedit.model.handle import ModelHandle
from alphaedit.model.local import responder_of
from alphaedit.model.responder import Responder
from alphaedit.model.route import plain
from alphaedit.model.special import check_special
from alphaedit.stats.drift import Drift, HeldOut, held_out
from alphaedit.stats.statistics import ModelStatistics

LOG = logging.getLogger(__name__)


class Editing(Versioned):
    """A model and what an editor needs to edit it."""

    def __init__(
        self,
        handle: ModelHandle,
        statistics: ModelStatistics,
        *,
        seed: int = 0,
        progress: Progress | bool | None = None,
        guard: Guard | str | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(handle)
        if handle.sharded and ranks.size > 1:
            raise ConfigError(
                "The model's weights are split over processes, so that each must take every pass.",
                remedy="Give no ranks: all processes edit the same facts.",
            )
        self.ranks = ranks
        self.statistics = statistics
        self.seed = as_seed(seed)
        self.progress = as_progress(progress)
        self._systems = Systems()
        self._chosen: dict[str, Measured] = {}
        self.guard = as_guard(guard)
        self._held_out: HeldOut | None = None
        self._budget_text: HeldOut | None = None
        if self.guard is not None:
            # Here and not before the first batch: `load` may bring edits.
            watched = self.guard
            self._held_out = held_out(handle, watched.text, seed=seed, tokens=watched.tokens)

    def hyperparameters(
        self,
        method: str | Method,
        preset: str | None = None,
        facts: Sequence[Fact] = (),
        **over: Any,
    ) -> Settings:
        """Hyperparameters of `method` for this model: preset, its own settings, those given here.

        Without a preset of the model's own, layers and scale are chosen by what the unedited model
        shows (once; later batches of the same sequence, also after `load`, use the same). What one
        call was given counts for that call alone.
        """
        as_text("preset", preset or "")
        solver = method_for(method, self.handle, self.edits, over, preset)
        given = settings_given(solver, over)
        return self._choose(solver, preset, each_of("facts", facts, Fact), given)[0]

    def _choose(
        self, solver: Method, preset: str | None, facts: Sequence[Fact], over: Mapping[str, Any]
    ) -> tuple[Settings, Measured]:
        """Hyperparameters, and what of them was measured on the model (empty with a preset)."""
        for edit in self.edits:
            if edit.measured:
                key = _key(edit.method, edit.measured.get("over", {}))
                self._chosen.setdefault(key, edit.measured.get("values", {}))
        key = _key(solver.name, over)
        with plain():
            hp, measured = choose(
                self.handle,
                self.statistics,
                solver,
                preset_name=preset,
                edits=in_a_row(self.edits, solver.name, len(facts)),
                over=over,
                known=self._chosen.get(key),
                unedited=self._applied.unedited if self.edits else nullcontext,
                seed=self.seed,
                progress=self.progress,
            )
        if measured:
            self._chosen[key] = measured
        return hp, {"over": _plain(over), "values": _plain(measured)} if measured else {}

    def _edit(
        self,
        facts: list[Fact],
        method: str | Method,
        preset: str | None,
        chat: bool,
        why: str,
        over: dict[str, Any],
    ) -> tuple[Edit, GuardError | None]:
        """One batch, and what a guard says that ends the run but keeps it."""
        solver = method_for(method, self.handle, self.edits, over, preset)
        over = settings_given(solver, over)
        check_special(facts, self.handle.tokenizer)
        if chat:
            facts = [in_chat(self.handle.tokenizer, fact) for fact in facts]
            over = {k: 0 for k in solver.config.model_fields if k == "contexts"} | over
        timer = Timer()
        self._check_needs(solver)
        with timer.phase("choice"):
            hp, measured = self.ranks.from_first(self._choose(solver, preset, facts, over))
        self._prepare(solver, hp, timer)
        with timer.phase("answers"):
            before = self.asked(facts)
        state = self._state_before(hp, facts)
        solution = self._solved(solver, hp, facts, state)
        learned = solution.state.learned(state)
        edit = Edit(
            id=edit_id(solution.patch, tuple(facts), self._last_id),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            method=solver.name,
            hyperparameters=hp.model_dump(mode="json", exclude_none=True),
            facts=tuple(facts),
            patch=solution.patch,
            base=self.base,
            parent=self._last_id,
            before=tuple(reply.answer for reply in before),
            measured=measured,
            learned=learned,
        )
        check_kind(edit)
        with self._applied.trial([e.patch for e in self.edits], solution.patch) as keep:
            with timer.phase("answers"):
                after = self.asked(facts)
            with timer.phase("guard") if self.guard else nullcontext():
                drift = self.ranks.from_first(self.drift() if self.ranks.first else None)
            edit = replace(
                edit,
                after=tuple(reply.answer for reply in after),
                verdict=tuple(reply.holds for reply in after),
                null_space=self._null_space(solver, hp, solution.patch),
                seconds={**timer.seconds, **solution.seconds},
                drift=drift.to_json() if drift else {},
            )
            stop = self._guarded(edit.id, drift)
            self._record("edit", why, add=[(edit, learned)])
            self._keep_contexts(hp, state, solution.state)
            keep()
        self._made(edit, learned, solution.state)
        LOG.info("%r", edit)
        return edit, stop

    def _solved(
        self, method: Method, hp: Settings, facts: list[Fact], state: SequentialState
    ) -> Solution:
        """What a method makes of facts, the same on all ranks; hooks and memories are silent."""
        problem = Problem(
            handle=self.handle,
            facts=facts,
            hyperparameters=hp,
            statistics=self._known_to(method, hp),
            state=state,
            seed=self.seed,
            progress=self.progress,
            ranks=self.ranks,
            systems=self._systems,
            base=self.base,
            changes=[change for edit in self.edits for change in edit.patch.changes],
            kl=self._kl() if getattr(hp, "kl_budget", None) else None,
        )
        with plain():
            solution = method.solve(problem)
        return replace(solution, patch=_of_first(solution.patch, self.ranks))

    def _kl(self) -> Callable[[], float]:
        """What measures how far the model has moved, on the guard's text or one like it."""
        text = self._held_out or self._budget_text
        if text is None:
            with self._applied.unedited() if self.edits else nullcontext():
                text = self._budget_text = held_out(self.handle, seed=self.seed)
        return lambda: text.drift(self.handle).kl

    def _state_before(self, hp: Settings, facts: Sequence[Fact]) -> SequentialState:
        """What the run has learned, with contexts that the unedited model wrote once already."""
        state = self._state_for(facts) if repeated(self._in_force, facts) else self.state
        if state.contexts or (key := self._contexts_key(hp)) is None:
            return state
        stored = self.ranks.from_first(self.statistics.cache.load_json(key))
        texts = (stored or {}).get("texts")
        whole = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        return replace(state, contexts=tuple(texts)) if texts and whole else state

    def _keep_contexts(self, hp: Settings, before: SequentialState, after: SequentialState) -> None:
        """Keep what the unedited model wrote for the next process."""
        new = after.contexts if self.ranks.first and not before.contexts else None
        if new and (key := self._contexts_key(hp)) is not None:
            self.statistics.cache.save_json(key, {"texts": list(new)})

    def _contexts_key(self, hp: Settings) -> dict[str, str] | None:
        """What contexts depend on; None where they are not kept."""
        if self.edits or not isinstance(hp, Hyperparameters) or not hp.contexts:
            return None
        if self.handle.sharded:
            return None
        return {
            "kind": "contexts",
            "model": self.statistics.model,
            "number": f"{self.handle.dtype} {self.handle.device.type}",
            "count": str(hp.contexts),
            "tokens": str(hp.context_tokens),
            "seed": str(self.seed),
        }

    def _check_needs(self, method: Method) -> None:
        """Refuse a method whose needs cannot be met, before anything is computed.

        Raises:
            ConfigError: naming what is missing.
            ResourceError: there is too little memory.
        """
        needs = method.needs
        if needs.whole_model and self.handle.sharded:
            raise ConfigError(
                f"{method.name} needs all weights in one process; this model's are split.",
                remedy="Load the model on one device, or use a method that changes weights.",
            )
        if needs.chat_template and not getattr(self.handle.tokenizer, "chat_template", None):
            raise ConfigError(
                f"{method.name} needs a chat template; this model's tokenizer has none.",
                remedy="Use an instruct model, or another method.",
            )
        if needs.second_moments:
            self._check_memory()

    def _prepare(self, method: Method, hp: Settings, timer: Timer) -> None:
        """Second moments and null spaces of the layers, each with its time."""
        check_budget(method, hp)
        if not needs_moments(method, hp):
            return
        known = self._known_to(method, hp)
        with timer.phase("second moments"), plain():
            ready = known.ready(hp.layers)
            with nullcontext() if ready or not self.edits else self._applied.unedited():
                known.prepare(hp.layers)
        if _in_space(hp, method):
            with timer.phase("null space"):
                for layer in hp.layers:
                    # Of experts only those that fire need theirs.
                    if self.handle.experts(layer) is None:
                        known.spectrum(layer)

    def _known_to(self, method: Method, hp: Settings) -> ModelStatistics:
        """The statistics that a method with these settings goes by."""
        known = statistics_for(method, hp, self.statistics)
        assert isinstance(known, ModelStatistics)
        return known

    def _guarded(self, edit: str, drift: Drift | None) -> GuardError | None:
        """What the guard says of a batch that is to be kept.

        Raises:
            GuardError: it is not to be kept.
        """
        if self.guard is None or drift is None:
            return None
        try:
            self.guard.act(drift, edit)
        except GuardError as stop:
            if not stop.kept:
                raise
            return stop
        return None

    @property
    def responder(self) -> Responder:
        """Who answers requests now: the model with the edits in force, or what they send to."""
        return responder_of(self.handle)

    def drift(self) -> Drift | None:
        """How far the model has moved on the guard's text; None without a guard."""
        return self._held_out.drift(self.handle) if self._held_out else None

    def asked(self, facts: Sequence[Fact]) -> list[Asked]:
        """What the model says to the prompt of each fact now, and whether it holds."""
        facts = each_of("facts", facts, Fact)
        return cast(list[Asked], self.ranks.map(facts, self._asked))

    def _asked(self, facts: Sequence[Fact]) -> list[Asked]:
        return ask_facts(self.responder, facts, to_end=False)

    def answers(self, facts: Sequence[Fact]) -> tuple[Answer, ...]:
        """What the model says to the prompt of each fact now."""
        return tuple(reply.answer for reply in self.asked(facts))

    def _null_space(self, method: Method, hp: Settings, patch: Patch) -> dict[str, dict[str, Any]]:
        """Size of the null space of each layer, and of the experts that `patch` changes."""
        if not isinstance(hp, Hyperparameters) or not _in_space(hp, method):
            return {}
        name = self.handle.edited_name
        sites = [
            site
            for site in self.statistics.sites(hp.layers)
            if isinstance(site, int) or name(site) in patch.weights
        ]
        known = self._known_to(method, hp)
        reports = known.report(sites, threshold=hp.threshold, energy=hp.energy)
        for site, row in zip(sites, reports, strict=True):
            if row.doubt and not method.needs.moment:  # which preserves what is free as well
                warnings.warn(
                    AlphaEditWarning(
                        f"Layer {site}: the null space {row.doubt}. Give another energy or "
                        "threshold (alphaedit stats shows the spectrum)."
                    ),
                    stacklevel=4,
                )
        return {name(site): asdict(r) for site, r in zip(sites, reports, strict=True)}

    def _check_memory(self) -> None:
        need = 4 * 4 * max(self.handle.moment_size(i) for i in range(self.handle.n_layers))
        free = psutil.virtual_memory().available
        if need > free:
            gc.collect()
            free = psutil.virtual_memory().available
        if need > free:
            raise ResourceError(
                f"Editing needs about {need / 1e9:.1f} GB for the second moment of one layer and "
                f"its spectrum; {free / 1e9:.1f} GB are free.",
                remedy="Close other programs, or use a machine with more memory.",
            )


def _in_space(hp: Settings, method: Method) -> bool:
    """Whether a null space was asked for, of a method that reads second moments."""
    asked = isinstance(hp, Hyperparameters) and (hp.threshold is not None or hp.energy is not None)
    return asked and needs_moments(method, hp)


def _key(method: str, over: Mapping[str, Any]) -> str:
    """By what a choice for a method with some values given is remembered."""
    return json.dumps([method, _plain(over)], sort_keys=True)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them, so that those read from disk equal those in memory."""
    return cast(dict[str, Any], json.loads(json.dumps(dict(values), default=str)))


def _of_first(patch: Patch, ranks: Ranks) -> Patch:
    """The first rank's patch on all: what each computed by itself may differ in its last bits."""
    if ranks.size == 1:
        return patch
    get = ranks.tensor_from_first
    weights = {name: LowRank(get(d.left), get(d.right)) for name, d in patch.weights.items()}
    changes = tuple(
        replace(
            change,
            owner=get(change.owner),
            rows={name: get(tensor) for name, tensor in change.rows.items()},
            shared={name: get(tensor) for name, tensor in change.shared.items()},
        )
        for change in patch.changes
    )
    return replace(patch, weights=weights, changes=changes)
