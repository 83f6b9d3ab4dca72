"""Editor: edit, ask, revert, save and load. `edit` changes the model, `revert` restores it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from alphaedit.core.arguments import as_count, as_flag, as_path, as_text
from alphaedit.core.bars import as_progress, close
from alphaedit.core.edit import Edit
from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact, check_facts
from alphaedit.core.progress import Progress, silent
from alphaedit.core.ranks import ALONE, Ranks
from alphaedit.core.show import table_html
from alphaedit.editor.batches import EditedBatch, edit_in_batches, split
from alphaedit.editor.checkpoint import save_checkpoint
from alphaedit.editor.editing import Editing
from alphaedit.editor.guard import Guard
from alphaedit.editor.inputs import as_facts, as_guard, as_seed, from_keywords
from alphaedit.editor.verdict import warn_of_fails
from alphaedit.model.chat import templated
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.corpus import check_corpus
from alphaedit.stats.statistics import ModelStatistics

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
        _check(model, corpus, tokens)
        with _library_bars(reporting is not silent):
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
        LOG.info("loaded %s, fingerprint %s", _name(model), statistics.model[:16])
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
            f"<Editor of {_name(self.handle.model.config.name_or_path or self.model)}: "
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
        method: str = "alphaedit",
        *,
        preset: str | None = None,
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
            method: name of an editing method.
            preset: name of a preset, or "measured" for what the model itself shows; by default the
                one that fits the model.
            chat: ask in a conversation, by the tokenizer's chat template. Texts are then not put
                in front of prompts (`contexts` is 0).
            why: message for the ledger's log, if one is tracked.
            hyperparameters: override single values for this call, e.g. `layers=(3, 4)`.

        Returns:
            The Edit, with the patch and the model's answers before and after.

        Raises:
            FactError, ConfigError, NonFiniteError, ResourceError: with the remedy; the model and
                the sequential state are as before.
            GuardError: the guard's limit is passed; the batch is kept ("stop") or undone
                ("rollback").
        """
        given = from_keywords(hyperparameters)
        if "batch_size" in hyperparameters:
            raise ConfigError(
                "`edit` makes one batch of all facts.", remedy="Use edit_batches(batch_size=...)."
            )
        if (facts is None) == (given is None):
            raise ConfigError(
                "No facts are given." if facts is None else "Facts are given twice.",
                remedy="Give facts as the first argument, or as keywords.",
            )
        checked = check_facts(as_facts(facts) if given is None else given)
        for name, value in (("method", method), ("preset", preset or ""), ("why", why)):
            as_text(name, value)
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
        self, facts: Facts, method: str = "alphaedit", *, batch_size: int = 100, **options: Any
    ) -> list[Edit]:
        """Edit facts in batches, one batch after the other; see `edit`.

        Each batch is complete (and recorded, if a ledger is tracked) before the next begins.

        Raises:
            GuardError: a guard ended the run; earlier batches are kept.
        """
        checked = check_facts(as_facts(facts), warn=False)  # `edit` does, of each batch
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
        self, batches: Sequence[Sequence[Fact]], method: str = "alphaedit", **options: Any
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
        self, facts: Facts | None = None, method: str = "alphaedit", **options: Any
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
        texts = [as_text("A prompt", one) for one in (prompt if several else [prompt])]
        as_count("max_new_tokens", max_new_tokens)
        as_flag("chat", chat)
        if chat:
            texts = [templated(self.handle.tokenizer, text) for text in texts]
        said = generate(self.responder, texts, max_new_tokens)
        return said if several else said[0]

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the edited model as a normal checkpoint that transformers loads.

        As with transformers, files are added to an existing folder or replaced by name; others
        stay.
        """
        return save_checkpoint(self.handle, as_path("folder", folder))

    def export(self, folder: str | Path, form: str = "lora", **options: Any) -> Any:
        """Write the edits in force for other programs; see `alphaedit.editor.export`.

        Args:
            folder: where.
            form: "lora" (an adapter for PEFT), "delta" (plain factors), or "checkpoint".
            options: of the form, such as `tolerance`.

        Raises:
            UnknownNameError: no such form.
            EditFileError: there is nothing to export.
        """
        from alphaedit.editor.export import export

        path = as_path("folder", folder)
        return export(self.handle, self.edits, path, as_text("form", form), **options)

    def evaluate(self, records: Any, **options: Any) -> Any:
        """The metrics of the papers, of the model as it is now.

        Args:
            records: a data set's path (see docs/datasets.md), "world" for records about the bundled
                world, or records that `alphaedit.bench` has read.
            options: of `alphaedit.bench.run.measure`: limit, schema, generation, seed.

        Returns:
            Rates by the metric's name.
        """
        from alphaedit.bench.run import measure

        return measure(self, records, **options)


def _check(model: Any, corpus: str | None, tokens: int | None) -> None:
    """Refuse what is impossible, and log what happens to a loaded model."""
    check_corpus(corpus)
    if tokens is not None:
        as_count("tokens", tokens)
    if not isinstance(model, (str, Path)):
        _tell_what_changes(model)


@contextmanager
def _library_bars(shown: bool) -> Iterator[None]:
    """Transformers' own bars, unless they are not wanted, for the length of a block."""
    from transformers.utils import logging as library

    off = library.is_progress_bar_enabled() and not shown
    if off:
        library.disable_progress_bar()
    try:
        yield
    finally:
        if off:
            library.enable_progress_bar()


def _tell_what_changes(model: Any) -> None:
    """Log what an editor does to a loaded model besides editing it."""
    if getattr(model, "training", False):
        LOG.warning("%s was in training mode; it is put into evaluation mode", _name(model))
    parameters = getattr(model, "parameters", None)
    if callable(parameters) and any(one.requires_grad for one in parameters()):
        LOG.info("gradients of the parameters of %s are switched off", _name(model))


def _name(model: Any) -> str:
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__
