"""Editor: edit, ask, revert, save and load. `edit` changes the model, `revert` restores it."""

from __future__ import annotations

import datetime
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from alphaedit.core.edit import Answer, Edit, edit_id
from alphaedit.core.errors import ConfigError, GuardError, ResourceError
from alphaedit.core.fact import Fact, check_facts
from alphaedit.core.patch import LowRank, Patch
from alphaedit.core.progress import Progress, silent
from alphaedit.core.ranks import ALONE, Ranks
from alphaedit.editor.checkpoint import save_checkpoint
from alphaedit.editor.guard import Guard
from alphaedit.editor.versioned import Versioned
from alphaedit.locate.preset import choose
from alphaedit.methods.base import Problem
from alphaedit.methods.config import Hyperparameters, build, overridden
from alphaedit.methods.registry import get_method
from alphaedit.methods.systems import Systems
from alphaedit.model.chat import in_chat, templated
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import score
from alphaedit.stats.drift import Drift, HeldOut, held_out
from alphaedit.stats.statistics import ModelStatistics

ANSWER_TOKENS = 8


class Editor(Versioned):
    """A model with the edits made to it.

    Attributes:
        handle: the model.
        statistics: second moments and spectra of the unedited model.
        edits: edits applied, oldest first.
        guard: watches what edits do to the rest of the model, if given.
        state: what the sequential run has learned so far (contexts, past keys).
        base: fingerprint of the unedited model.
        ledger: where each change is recorded, if one is tracked.
        ranks: processes that share the work.
    """

    def __init__(
        self,
        handle: ModelHandle,
        statistics: ModelStatistics,
        *,
        seed: int = 0,
        progress: Progress = silent,
        guard: Guard | None = None,
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
        self.seed = seed
        self.progress = progress
        self._systems = Systems()
        self._chosen: dict[tuple[str, str | None], dict[str, Any]] = {}
        self.guard = guard
        self._held_out: HeldOut | None = None
        if guard is not None:
            # Here and not before the first batch: `load` may bring edits.
            self._held_out = held_out(handle, guard.text, seed=seed, tokens=guard.tokens)

    @classmethod
    def from_pretrained(
        cls,
        model: Any,
        tokenizer: Any = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        seed: int = 0,
        corpus: str | None = None,
        tokens: int | None = None,
        tolerance: float | None = None,
        cache_dir: str | Path | None = None,
        progress: Progress = silent,
        guard: Guard | None = None,
        ranks: Ranks = ALONE,
    ) -> Editor:
        """An editor for a model.

        Args:
            model: a directory or hub name, "bundled", "bundled-small", or a loaded causal LM (then
                give its tokenizer).
            corpus: text for the second moments: a file, "hf:NAME", "bundled" or "self" (sampled
                from the model); by default the bundled corpus for bundled models, else "self".
            tokens: token budget of the second moments.
            tolerance: stop before it when doubling the text changes no second moment by more than
                this share of its Frobenius norm.
            cache_dir: where second moments are kept.
            guard: measures the rest of the model after each batch, and acts.
            ranks: processes that share the work, see `alphaedit.core.ranks.from_environment`.

        Raises:
            ModelError: the model cannot be loaded or edited.
        """
        handle = ModelHandle.load(model, tokenizer, device=device, dtype=dtype)
        bundled = getattr(handle.model.config, "alphaedit_world", None) is not None
        statistics = ModelStatistics(
            handle,
            corpus or ("bundled" if bundled else "self"),
            tokens=tokens,
            tolerance=tolerance,
            cache_dir=cache_dir,
            seed=seed,
            progress=progress,
            ranks=ranks,
        )
        return cls(handle, statistics, seed=seed, progress=progress, guard=guard, ranks=ranks)

    def hyperparameters(
        self,
        method: str,
        preset: str | None = None,
        facts: Sequence[Fact] = (),
        **over: Any,
    ) -> Hyperparameters:
        """Hyperparameters of `method` for this model: preset, then what is given here.

        Without a preset of the model's own, layers and scale are chosen by what the model shows
        (once; later batches of the same sequence, also after `load`, use the same).
        """
        known = [e for e in self.edits if e.method == get_method(method).name]
        if known and preset is None:
            values = overridden(known[-1].hyperparameters, over)
            return build(values, f"hyperparameters of {method}")
        return choose(
            self.handle,
            self.statistics,
            get_method(method),
            preset_name=preset,
            facts=facts,
            over=over,
            memory=self._chosen,
            seed=self.seed,
            progress=self.progress,
        )

    def edit(
        self,
        facts: Fact | Iterable[Fact] | Iterable[Mapping[str, Any]],
        method: str = "alphaedit",
        *,
        preset: str | None = None,
        chat: bool = False,
        why: str = "",
        **hyperparameters: Any,
    ) -> Edit:
        """Change the model so that `facts` hold. A failure changes nothing.

        Args:
            facts: facts, or mappings with the fields of a Fact.
            method: name of an editing method.
            preset: name of a preset; by default the one that fits the model.
            chat: ask in a conversation, by the tokenizer's chat template. Texts are then not put
                in front of prompts (`contexts` is 0).
            why: message for the ledger's log, if one is tracked.
            hyperparameters: override single values, e.g. `layers=(3, 4)`.

        Returns:
            The Edit, with the patch and the model's answers before and after.

        Raises:
            FactError, ConfigError, NonFiniteError, ResourceError: with the remedy; the model and
                the sequential state are as before.
            GuardError: the guard's limit is passed; the batch is kept ("stop") or undone
                ("rollback").
        """
        checked = check_facts(_as_facts(facts))
        if chat:
            checked = [in_chat(self.handle.tokenizer, fact) for fact in checked]
            hyperparameters = {"contexts": 0, **hyperparameters}
        self._check_memory()
        solver = get_method(method)
        hp = self.ranks.from_first(self.hyperparameters(method, preset, checked, **hyperparameters))
        self.statistics.prepare(hp.layers)
        before = self.answers(checked)
        solution = solver.solve(
            Problem(
                handle=self.handle,
                facts=checked,
                hyperparameters=hp,
                statistics=self.statistics,
                state=self.state,
                seed=self.seed,
                progress=self.progress,
                ranks=self.ranks,
                systems=self._systems,
            )
        )
        solution = replace(solution, patch=_of_first(solution.patch, self.ranks))
        parent = self.edits[-1].id if self.edits else None
        with self._layers.trial(solution.patch.weights) as keep:
            after = self.answers(checked)
            drift = self.ranks.from_first(self.drift() if self.ranks.first else None)
            edit = Edit(
                id=edit_id(solution.patch, tuple(checked), parent),
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                method=solver.name,
                hyperparameters=hp.model_dump(mode="json", exclude_none=True),
                facts=tuple(checked),
                patch=solution.patch,
                base=self.base,
                parent=parent,
                before=before,
                after=after,
                null_space=self._null_space(hp),
                seconds=solution.seconds,
                drift=drift.to_json() if drift else {},
            )
            stop = self._guarded(edit.id, drift)
            learned = solution.state.learned(self.state)
            self._record("edit", why, add=[(edit, learned)])
            keep()
        self.edits.append(edit)
        self._learned.append(learned)
        self.state = solution.state
        if stop is not None:
            raise stop
        return edit

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

    def drift(self) -> Drift | None:
        """How far the model has moved on the guard's text; None without a guard."""
        return self._held_out.drift(self.handle) if self._held_out else None

    @contextmanager
    def preview(
        self, facts: Fact | Iterable[Fact] | Iterable[Mapping[str, Any]], **options: Any
    ) -> Iterator[Edit]:
        """Edit for the length of a block; nothing is recorded.

        Args:
            facts: as for `edit`.
            options: as for `edit`.
        """
        ledger, self.ledger = self.ledger, None
        edits, learned, state = list(self.edits), list(self._learned), self.state
        try:
            yield self.edit(facts, **options)
        finally:
            self._go(edits, learned, op="revert")
            self.state, self.ledger = state, ledger

    def ask(self, prompt: str, max_new_tokens: int = 20, *, chat: bool = False) -> str:
        """The model's greedy continuation of `prompt`, or with `chat` its answer to it."""
        if chat:
            prompt = templated(self.handle.tokenizer, prompt)
        return generate(self.handle, [prompt], max_new_tokens)[0]

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the edited model as a normal checkpoint that transformers loads."""
        return save_checkpoint(self.handle, Path(folder))

    def answers(self, facts: Sequence[Fact]) -> tuple[Answer, ...]:
        """What the model says to the prompt of each fact now."""
        return tuple(self.ranks.map(facts, self._answers))

    def _answers(self, facts: Sequence[Fact]) -> list[Answer]:
        texts = generate(self.handle, [f.text for f in facts], ANSWER_TOKENS)
        pairs = [(f.text, f.target) for f in facts]
        known = [(i, (f.text, f.truth)) for i, f in enumerate(facts) if f.truth]
        scores = score(self.handle, pairs + [pair for _, pair in known])
        truth = {i: s.p for (i, _), s in zip(known, scores[len(facts) :], strict=True)}
        return [
            Answer(text=text, p_target=s.p, p_truth=truth.get(i))
            for i, (text, s) in enumerate(zip(texts, scores[: len(facts)], strict=True))
        ]

    def _null_space(self, hp: Hyperparameters) -> dict[str, dict[str, Any]]:
        if hp.threshold is None and hp.energy is None:
            return {}
        reports = self.statistics.report(hp.layers, threshold=hp.threshold, energy=hp.energy)
        names = [self.handle.edited_name(layer) for layer in hp.layers]
        return {name: asdict(r) for name, r in zip(names, reports, strict=True)}

    def _check_memory(self) -> None:
        need = 4 * 4 * max(self.handle.d_in(i) for i in range(self.handle.n_layers)) ** 2
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


def _as_facts(facts: Any) -> list[Fact]:
    if isinstance(facts, Fact):
        return [facts]
    return [
        f if isinstance(f, Fact) else Fact.from_dict(f, f"fact {i}")
        for i, f in enumerate(facts, start=1)
    ]


def _of_first(patch: Patch, ranks: Ranks) -> Patch:
    """The first rank's patch on all: what each computed by itself may differ in its last bits."""
    if ranks.size == 1:
        return patch
    get = ranks.tensor_from_first
    weights = {name: LowRank(get(d.left), get(d.right)) for name, d in patch.weights.items()}
    return replace(patch, weights=weights)
