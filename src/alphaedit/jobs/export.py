"""Write the edits of a ledger for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import ConfigError, unknown_name
from alphaedit.core.files import write_text
from alphaedit.core.marks import YAML
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.late import Wrote, untold
from alphaedit.jobs.ledgers import editor_at, model_of
from alphaedit.jobs.opening import Loading
from alphaedit.ledger.ledger import Ledger

if TYPE_CHECKING:
    from alphaedit.core.edit import Edit
    from alphaedit.editor.as_weights import Anew
    from alphaedit.editor.export import Exported
    from alphaedit.editor.session import Editor

FORMS = ("lora", "delta", "checkpoint", "gguf", "gguf-lora")
MODELFILE = "Modelfile"
ASKED = 50
"""Facts asked for with the weights as they were written."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest(Loading):
    """Edits to write, in which form, and where.

    Attributes:
        ledger: whose edits.
        out: the directory to write; for gguf and gguf-lora, the file.
        model: the unedited model; by default as the ledger names it.
        version: an entry of the log, or an edit's id.
        form: "lora", "delta", "checkpoint", "gguf" or "gguf-lora".
        tolerance: relative error of a matrix allowed, to make ranks smaller.
        max_rank: rank of an adapter at most.
        tensor_type: of tensors in GGUF; by default F16, and F32 for gguf-lora.
        ollama: with gguf, write a Modelfile beside it.
        corpus: text for facts of hooks, which become neurons or are edited anew; see `Opening`.
        tokens: its budget.
        cache_dir: where what is counted of it is kept.

    Raises:
        UnknownNameError: no such form.
    """

    ledger: Path
    out: Path
    model: str | None = None
    version: str = "head"
    form: str = "lora"
    tolerance: float = 1e-7
    max_rank: int | None = None
    tensor_type: str | None = None
    ollama: bool = False
    corpus: str | None = None
    tokens: int | None = None
    cache_dir: Path | None = None

    def opening(self) -> dict[str, Any]:
        """What `Opening` takes."""
        return {
            **self.loading(),
            "corpus": self.corpus,
            "tokens": self.tokens,
            "cache_dir": self.cache_dir,
        }

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise unknown_name("form", self.form, FORMS)


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        request: what was asked for.
        model: the unedited model.
        edits: the edits written.
        matrices: of each, its rank and error; empty for gguf.
        gguf: tensors written, and which facts hold with them; empty for other forms.
        neurons: of edits that act while the model runs, what they are in a checkpoint, and which
            facts hold with it; empty without such edits.
        anew: of such edits where the form or the model takes no neurons, what edited their facts
            anew, and which hold by it.
    """

    request: ExportRequest
    model: str
    edits: Sequence[Edit] = field(repr=False)
    matrices: Sequence[Exported]
    gguf: Mapping[str, Any]
    neurons: Mapping[str, Any] = field(default_factory=dict)
    anew: Anew | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        request = self.request
        matrices = {"matrices": [asdict(row) for row in self.matrices]}
        return {
            "ledger": str(request.ledger),
            "model": self.model,
            "format": request.form,
            "out": str(request.out),
            "edits": [edit.id for edit in self.edits],
            **(dict(self.gguf) if request.form == "gguf" else matrices),
            **({"neurons": dict(self.neurons)} if self.neurons else {}),
            **({"anew": self.anew.to_json()} if self.anew else {}),
        }


def run(
    request: ExportRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
    editor: Editor | None = None,
) -> ExportResult:
    """Load the model with the edits of a version, and write them.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it before it writes.
        wrote: is told of each output that is complete.
        editor: the model with the edits of that version in force, if it is loaded already.

    Raises:
        Cancelled: `cancel` was set.
        LedgerError: there is no such ledger or version.
        ConfigError: no model is named, or the GGUF file of it is not known.
        EditFileError: there is nothing to export.
    """
    ledger = Ledger(request.ledger)
    model = model_of(ledger, request.model)
    version = ledger.version(request.version)
    report = watched(progress, cancel)
    if editor is None:
        editor = editor_at(ledger, model, version, report, **request.opening())
    if cancel is not None:
        cancel.check()
    edits, neurons, gguf = list(editor.edits), dict[str, Any](), dict[str, Any]()
    with _own_shape(request, editor) as anew:
        if request.form == "checkpoint":
            matrices, neurons = write_checkpoint(editor, model, request.out, progress=report)
        else:
            matrices, gguf = _write(request, editor, model)
    wrote(request.out)
    return ExportResult(
        request=request,
        model=model,
        edits=edits,
        matrices=matrices,
        gguf=gguf,
        neurons=neurons,
        anew=anew,
    )


def _own_shape(request: ExportRequest, editor: Editor) -> AbstractContextManager[Anew | None]:
    """Facts of hooks are edited anew for the block, where what is written can hold no neurons."""
    from alphaedit.editor.as_weights import as_weights
    from alphaedit.editor.in_weights import takes_neurons

    if request.form == "checkpoint" and (not editor.handle.hooked or takes_neurons(editor.handle)):
        return nullcontext()
    return as_weights(editor)


def _write(
    request: ExportRequest, editor: Editor, model: str
) -> tuple[Sequence[Exported], dict[str, Any]]:
    """Write one form; the matrices, or what was written into GGUF."""
    from alphaedit.editor.export import export
    from alphaedit.editor.gguf_export import base_of, save_gguf_lora

    handle, edits, out = editor.handle, editor.edits, request.out
    ranks: dict[str, Any] = {"tolerance": request.tolerance, "max_rank": request.max_rank}
    if request.form == "gguf-lora":
        kind = request.tensor_type or "F32"
        base = base_of(model)
        return save_gguf_lora(handle, edits, out, base=model, gguf=base, kind=kind, **ranks), {}
    if request.form == "gguf":
        return [], write_gguf(editor, model, out, kind=request.tensor_type, ollama=request.ollama)
    if request.form != "lora":
        del ranks["max_rank"]
    written = export(handle, edits, out, request.form, base=model, only_ours=True, **ranks)
    return written or [], {}


def write_checkpoint(
    editor: Editor, model: str, out: Path, *, progress: Progress = silent
) -> tuple[Sequence[Exported], dict[str, Any]]:
    """Write the whole model; of each matrix what changed, and what hooks became."""
    from alphaedit.editor.checkpoint import save_checkpoint
    from alphaedit.editor.export import card, summed
    from alphaedit.editor.in_weights import facts_as_written, in_weights

    handle, edits = editor.handle, editor.edits
    of_weights = [edit for edit in edits if not edit.patch.changes]
    matrices = summed(of_weights)[1] if of_weights or not edits else []
    wider = in_weights(handle, editor.statistics.corpus, edits, progress=progress)
    about: dict[str, Any] = {}
    if wider is not None:
        about = {**wider.about(handle), "facts": facts_as_written(handle, wider, edits)}
    texts = {"FACTS.md": card(edits, model, matrices, about)}
    save_checkpoint(handle, out, texts=texts, only_ours=True, wider=wider)
    return matrices, about


def base_file(model: str) -> Path:
    """The GGUF file that edits of `model` go into.

    Raises:
        ConfigError: it is not known, or no longer as it was.
    """
    from alphaedit.editor.gguf_export import base_of

    base = base_of(model)
    if base is None:
        raise ConfigError(
            f"{model} is no GGUF file, and was not converted from one that is still there.",
            remedy="Give --model BASE.gguf, the file that was edited, or use --format gguf-lora.",
        )
    return base


def write_gguf(
    editor: Editor, model: str, out: Path, *, kind: str | None, ollama: bool
) -> dict[str, Any]:
    """Write the base file with edited tensors; what was written, and what it still says."""
    from alphaedit.editor.gguf_export import save_gguf, weights_in
    from alphaedit.editor.measured import ask_facts

    rows = save_gguf(base_file(model), editor.edits, out, kind=kind or "F16")
    if ollama:
        write_text(f"{YAML}FROM ./{out.name}\n", out.parent / MODELFILE)
    facts = [fact for edit in editor.edits for fact in edit.facts][-ASKED:]
    handle = editor.handle
    before = sum(reply.holds for reply in ask_facts(handle, facts))
    saved = handle.snapshot([row.parameter for row in rows])
    layers = {handle.edited_name(layer): layer for layer in range(handle.n_layers)}
    try:
        for name, weight in weights_in(out, rows).items():
            handle.set_weight(layers[name], weight)
        after = sum(reply.holds for reply in ask_facts(handle, facts))
    finally:
        handle.restore(saved)
    return {
        "tensors": [asdict(row) for row in rows],
        "facts": {"asked": len(facts), "hold": before, "hold_as_written": after},
        "bytes": out.stat().st_size,
    }
