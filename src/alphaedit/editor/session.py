"""Editor: edit, ask, revert, save and load. `edit` changes the model, `revert` restores it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from alphaedit.core import defaults
from alphaedit.core.arguments import as_count, as_flag, as_path, as_text
from alphaedit.core.bars import as_progress, close
from alphaedit.core.edit import Edit
from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact, check_facts
from alphaedit.core.progress import Progress, silent
from alphaedit.core.ranks import ALONE, Ranks
from alphaedit.core.show import table_html
from alphaedit.editor.as_weights import as_weights_told
from alphaedit.editor.batches import EditedBatch, edit_in_batches, split
from alphaedit.editor.checkpoint import refuse_source, save_checkpoint
from alphaedit.editor.editing import Editing
from alphaedit.editor.guard import Guard
from alphaedit.editor.in_weights import in_a_checkpoint
from alphaedit.editor.inputs import as_guard, as_seed, facts_given
from alphaedit.editor.loading import check_loading, library_bars, name_of
from alphaedit.editor.verdict import warn_of_fails
from alphaedit.methods.base import Method
from alphaedit.methods.plugin import Plugin
from alphaedit.model.chat import templated
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics

if TYPE_CHECKING:
    from alphaedit.bench.data import EditRecord
    from alphaedit.bench.metrics import Metrics
    from alphaedit.editor.export import Exported

LOG = logging.getLogger(__name__)
Facts = Fact | str | Path | Mapping[str, Any] | Iterable[Any]
"""A fact, a mapping with its fields, (prompt, subject, target), several, or a facts file's path."""


class Editor(Editing):
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
        progress: Progress | bool | None = None,
        guard: Guard | str | None = None,
        ranks: Ranks = ALONE,
        trust_remote_code: bool = False,
    ) -> Editor:
        """An editor for a model; a loaded one goes into evaluation mode, its gradients off.

        Args:
            model: a directory, a hub or bundled name, or a loaded causal LM (with its tokenizer).
            device: where to compute: "cpu", "cuda:0", "auto" (over all devices there are).
            dtype: dtype of the weights: "float32", "bfloat16", ...; "4bit" and "8bit" quantise.
            seed: of everything random.
            corpus: text for the second moments: a file, "hf:NAME", "general" (the package's own),
                "bundled" or "self" (sampled from the model); by default the bundled corpus for
                bundled models, else "general" if the model reads such text, else "self".
            tokens: token budget of the second moments.
            tolerance: stop before it once doubling the text changes no second moment by this share.
            cache_dir: where second moments are kept.
            progress: True for bars, False for silence, or a function of (phase, done, total); by
                default bars in terminals and notebooks.
            guard: measures the model after each batch, and acts; also as "rollback:max_kl=0.05".
            ranks: processes that share the work, see `alphaedit.core.ranks.from_environment`.
            trust_remote_code: run Python code that comes with the model.

        Raises:
            ModelError: the model cannot be loaded or edited.
            ConfigError: an impossible value; found before the model is loaded.
            StatsError: the corpus is a file that is not there.
        """
        # What is wrong with the rest is better known before a model is loaded.
        reporting, watching, seed = as_progress(progress), as_guard(guard), as_seed(seed)
        check_loading(model, corpus, tokens)
        with library_bars(reporting is not silent):
            handle = ModelHandle.load(
                model, tokenizer, device=device, dtype=dtype, trust_remote_code=trust_remote_code
            )
        budget: dict[str, Any] = {"tokens": tokens, "tolerance": tolerance}
        statistics = ModelStatistics(
            handle,
            corpus,
            cache_dir=cache_dir,
            seed=seed,
            progress=reporting,
            ranks=ranks,
            **budget,
        )
        LOG.info("loaded %s, fingerprint %s", name_of(model), statistics.model[:16])
        return cls(handle, statistics, seed=seed, progress=reporting, guard=watching, ranks=ranks)

    @property
    def model(self) -> PreTrainedModel:
        """The model with the edits in force, as transformers has it."""
        model: PreTrainedModel = self.handle.model
        return model

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.handle.tokenizer

    def __repr__(self) -> str:
        facts = sum(len(edit.facts) for edit in self.edits)
        return (
            f"<Editor of {name_of(self.handle.model.config.name_or_path or self.model)}: "
            f"{len(self.edits)} edits of {facts} facts in force>"
        )

    def _repr_html_(self) -> str:
        rows = (
            (edit.id, edit.method, str(len(edit.facts)), str(len(edit.holds)), edit.created)
            for edit in self.edits
        )
        head = repr(self).strip("<>")
        names = ("edit", "method", "facts", "held when made", "made")
        return f"<p>{head}</p>" + (table_html(names, rows) if self.edits else "")

    def edit(
        self,
        facts: Facts | None = None,
        method: str | Method = defaults.METHOD,
        *,
        preset: str | None = None,
        plugins: Sequence[str | Plugin] | None = None,
        chat: bool = False,
        why: str = "",
        **hyperparameters: Any,
    ) -> Edit:
        """Change the model so that `facts` hold. A failure changes nothing.

        Afterwards the model is asked: facts that do not hold are told by a warning and stand in
        `fails` of the Edit.

        Args:
            facts: a fact, a mapping with the fields of one, (prompt, subject, target), several of
                these, or the path of a facts file. In their place keywords as EasyEdit has them may
                be given: prompts, subject, target_new, ground_truth, rephrase_prompts.
            method: an editing method, such as `AlphaEdit(ridge=5.0)` with settings, or its name; by
                default `gated`, or `alphaedit-weighted` where `editor.standard` says so.
            preset: name of a preset, or "measured" for what the model itself shows; by default the
                one that fits the model.
            plugins: steps of the method that are done otherwise: `Sphere(strength=0.8)`, or a text
                such as "sphere:strength=0.8". In place of those that the method was given.
            chat: ask in a conversation, by the tokenizer's chat template. Texts are then not put
                in front of prompts (`contexts` is 0).
            why: message for the ledger's log, if one is tracked.
            hyperparameters: single values for this call, e.g. `layers=(3, 4)`. They win over those
                that the method was given, as these win over a preset.

        Returns:
            The Edit, with the patch and the model's answers before and after.

        Raises:
            FactError, ConfigError, NonFiniteError, ResourceError: with the remedy; the model and
                the sequential state are as before.
            GuardError: the guard's limit is passed; the batch is kept ("stop") or undone
                ("rollback").
        """
        if "batch_size" in hyperparameters:
            raise ConfigError(
                "`edit` makes one batch of all facts.", remedy="Use edit_batches(batch_size=...)."
            )
        checked = check_facts(facts_given(facts, hyperparameters))
        for name, value in (("preset", preset or ""), ("why", why)):
            as_text(name, value)
        if plugins is not None:
            hyperparameters["plugins"] = plugins
        as_flag("chat", chat)
        try:
            edit, stop = self._edit(checked, method, preset, chat, why, hyperparameters)
        finally:
            close(self.progress)
        warn_of_fails(edit)
        if stop is not None:
            raise stop
        return edit

    def edit_batches(
        self,
        facts: Facts | None = None,
        method: str | Method = defaults.METHOD,
        *,
        batch_size: int = 100,
        **options: Any,
    ) -> list[Edit]:
        """Edit facts in batches, one batch after the other; see `edit`.

        Each batch is complete (and recorded, if a ledger is tracked) before the next begins.

        Args:
            facts: as for `edit`.
            method: as for `edit`.
            batch_size: facts of a batch; the last may have fewer.
            options: as for `edit`.

        Returns:
            The edit of each batch.

        Raises:
            GuardError: a guard ended the run; earlier batches are kept.
        """
        checked = check_facts(facts_given(facts, options), warn=False)  # `edit` does, of each batch
        made = []
        for batch in edit_in_batches(
            self,
            split(checked, as_count("batch_size", batch_size)),
            method,
            phase="facts",
            verdicts=True,
            **options,
        ):
            if batch.stop is not None:
                raise batch.stop
            assert batch.edit is not None
            made.append(batch.edit)
        return made

    def edit_in_batches(
        self,
        batches: Sequence[Sequence[Fact]],
        method: str | Method = defaults.METHOD,
        **options: Any,
    ) -> Iterator[EditedBatch]:
        """Edit one batch after the other, and give each when it is made and recorded.

        A guard that ends the run is no error here: the last batch has it as `stop`, and no edit if
        it was undone. Facts that do not hold are not told by warnings.

        Args:
            batches: the facts of each batch.
            method: as for `edit`.
            options: as for `edit`; with `phase`, progress counts facts under that name.
        """
        return edit_in_batches(self, batches, method, **options)

    @contextmanager
    def preview(
        self, facts: Facts | None = None, method: str | Method = defaults.METHOD, **options: Any
    ) -> Iterator[Edit]:
        """Edit for the length of a block; nothing is recorded.

        Args:
            facts: as for `edit`.
            method: as for `edit`.
            options: as for `edit`.
        """
        ledger, self.ledger = self.ledger, None
        edits, learned, state = list(self.edits), list(self._learned), self.state
        try:
            yield self.edit(facts, method, **options)
        finally:
            self._go(edits, learned, op="revert")
            self.state, self.ledger = state, ledger

    def ask(
        self, prompt: str | Sequence[str], max_new_tokens: int = 20, *, chat: bool = False
    ) -> Any:
        """The model's greedy continuation of `prompt`, or with `chat` its answer to it.

        Args:
            prompt: a text, or several; then a list of answers is returned.
            max_new_tokens: length of an answer.
            chat: each is a user's turn, by the tokenizer's chat template.

        Raises:
            ModelError: a prompt is as long as all that the model reads, or longer.
            ConfigError: a prompt is no text.
        """
        several = not isinstance(prompt, str) and isinstance(prompt, Iterable)
        texts = [as_text("A prompt", item) for item in (prompt if several else [prompt])]
        as_count("max_new_tokens", max_new_tokens)
        as_flag("chat", chat)
        if chat:
            texts = [templated(self.handle.tokenizer, text) for text in texts]
        answers = generate(self.responder, texts, max_new_tokens)
        return answers if several else answers[0]

    def save_pretrained(self, folder: str | Path, *, only_ours: bool = False) -> Path:
        """Write the edited model as a normal checkpoint that transformers loads.

        As with transformers, files are added to an existing folder or replaced by name; others
        stay. Edits by `gated` are written as neurons, with which MLPs are wider, or, in families
        whose MLPs cannot be, their facts are edited anew by `alphaedit-weighted`; a warning names
        facts that are lost by it.

        Args:
            folder: where.
            only_ours: in a folder that is there, replace only what we wrote and nobody changed.

        Raises:
            EditFileError: edits are in force that no weights can hold.
            ConfigError: `folder` is where the unedited model was loaded from.
        """
        path = as_path("folder", folder)
        with in_a_checkpoint(self, path) as wider:
            return save_checkpoint(self.handle, path, only_ours=only_ours, wider=wider)

    def export(
        self, folder: str | Path, form: str = "lora", **options: Any
    ) -> list[Exported] | None:
        """Write the edits in force for other programs; see `alphaedit.editor.export`.

        For forms that hold weights of the model's own shape, facts of edits by `gated` are edited
        anew by `alphaedit-weighted`; a warning says so and names facts that do not hold by it.

        Args:
            folder: where.
            form: "lora" (an adapter for PEFT), "delta" (plain factors), or "checkpoint".
            options: of the form, such as `tolerance`.

        Returns:
            What was written of each matrix, with its rank and relative error; None of a checkpoint.

        Raises:
            UnknownNameError: no such form.
            EditFileError: there is nothing to export, or nothing that can be.
        """
        from alphaedit.editor.export import check_form, export

        path, kind = as_path("folder", folder), check_form(as_text("form", form))
        if kind == "lora":
            refuse_source(self.handle, path)
        if kind == "checkpoint":
            with in_a_checkpoint(self, path) as wider:
                return export(self.handle, self.edits, path, kind, **{"wider": wider, **options})
        with as_weights_told(self):
            return export(self.handle, self.edits, path, kind, **options)

    def evaluate(
        self,
        records: str | Path | Sequence[EditRecord],
        *,
        limit: int | None = None,
        schema: str | None = None,
        generation: bool = False,
        seed: int = 0,
        progress: Progress | bool | None = None,
        **options: Any,
    ) -> Metrics:
        """The metrics of the papers, of the model as it is now.

        Args:
            records: a data set's path (see docs/datasets.md), "hf:NAME", "world" for records about
                the bundled world, or what `alphaedit.load_records` gave.
            limit: how many of them; by default all of a data set, and 100 of the world.
            schema: of the data set; by default told from its first record.
            generation: also what samples text (fluency, consistency), which takes long.
            seed: of what is drawn and sampled.
            progress: as for `from_pretrained`; by default the editor's own.
            options: others of `alphaedit.bench.run.measure`.

        Returns:
            Rates by the metric's name.

        Raises:
            DataError: the data set cannot be read, or there are no records.
        """
        from alphaedit.bench.run import measure

        own: dict[str, Any] = {"limit": limit, "schema": schema, "generation": generation}
        return measure(self, records, seed=seed, progress=progress, **own, **options)
