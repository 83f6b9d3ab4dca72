"""Evaluate a model in one call: the public names `evaluate` and `load_records`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.bench.metrics import Metrics
from alphaedit.bench.run import measure
from alphaedit.bench.sources import WORLD, records_of
from alphaedit.core.arguments import as_count, as_text, shown
from alphaedit.core.errors import ConfigError, DataError
from alphaedit.core.progress import Progress
from alphaedit.editor.inputs import as_seed
from alphaedit.editor.session import Editor

WORLD_RECORDS = 100
"""Records about the bundled world, unless a limit is given."""


def evaluate(
    model: Editor | PreTrainedModel | str | Path,
    records: str | Path | Sequence[EditRecord],
    *,
    tokenizer: Any = None,
    limit: int | None = None,
    schema: str | None = None,
    generation: bool = False,
    seed: int = 0,
    progress: Progress | bool | None = None,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> Metrics:
    """The metrics of the papers, of a model as it is now.

    Args:
        model: an editor, with the edits in force; or what `Editor.from_pretrained` takes.
        records: what `load_records` gave, or a data set's path, "hf:NAME", or "world" for records
            about the bundled world.
        tokenizer: of a loaded model.
        limit: how many records; by default all of a data set, and 100 of the world.
        schema: of the data set; by default told from its first record.
        generation: also the metrics that sample text (fluency, consistency), which take long.
        seed: of what is drawn and sampled.
        progress: as for `Editor.from_pretrained`; by default the editor's own.
        device: where to compute; this, `dtype` and `trust_remote_code` are as for
            `Editor.from_pretrained`, and not for an editor.
        options: others of `alphaedit.bench.run.measure`.

    Returns:
        Rates by the metric's name: `value`, a 95 % interval from `low` to `high`, and the number
        `n` of what was asked; None where there was nothing to ask.

    Raises:
        DataError: the data set cannot be read, or there are no records.
        ModelError: the model cannot be loaded.
        ConfigError: an impossible value.
    """
    loading = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    editor = _editor_of(model, tokenizer, seed=seed, progress=progress, **loading)
    return measure(
        editor,
        records,
        limit=limit,
        schema=schema,
        generation=generation,
        seed=seed,
        progress=progress,
        **options,
    )


def _editor_of(model: Any, tokenizer: Any, **loading: Any) -> Editor:
    """The editor that is given, or one for a model.

    Raises:
        ConfigError: an editor is given, and how to load its model.
    """
    if not isinstance(model, Editor):
        return Editor.from_pretrained(model, tokenizer, **loading)
    given = (tokenizer, loading["device"], loading["dtype"], loading["trust_remote_code"] or None)
    if any(value is not None for value in given):
        raise ConfigError(
            "An editor has loaded its model already.",
            remedy="Leave tokenizer, device, dtype and trust_remote_code out.",
        )
    return model


def load_records(
    source: str | Path,
    schema: str | None = None,
    *,
    limit: int | None = None,
    seed: int | None = None,
    editor: Editor | None = None,
) -> list[EditRecord]:
    """Records of a data set: what is edited, and the prompts that test it.

    Args:
        source: a file (see docs/datasets.md), "hf:NAME[:CONFIG[:SPLIT]]", or "world" for records
            about the bundled world.
        schema: its name; by default told from the first record.
        limit: at most so many: the first ones, or a sample by `seed`; 100 of the world.
        seed: of the sample.
        editor: whose model is to be edited; for "world" alone, as bundled models know parts of it.

    Raises:
        DataError: the source is missing or broken, or a field is (it names file, record and field);
            or no editor is given for "world".
        UnknownNameError: no such schema.
        ConfigError: an impossible value.
    """
    if not isinstance(source, (str, Path)):
        raise ConfigError(f"The data set is {shown(source)}.", remedy="Give a path or a name.")
    if limit is not None:
        as_count("limit", limit)
    as_text("schema", schema or "")
    seed = None if seed is None else as_seed(seed)
    name = as_text("The data set", str(source))
    if name.partition(":")[0] != WORLD:
        return list(load(name, schema, limit=limit, seed=seed).records)
    if editor is None:
        raise DataError(
            "Which records of the bundled world there are depends on what a model knows of it.",
            remedy="Give an editor, or give 'world' to Editor.evaluate.",
        )
    return records_of(editor.handle, name, limit or WORLD_RECORDS, seed or 0, schema)
