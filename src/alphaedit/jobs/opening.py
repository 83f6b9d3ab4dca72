"""Which model a job works on, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.progress import Progress
from alphaedit.ledger.known import remember
from alphaedit.ledger.ledger import Ledger
from alphaedit.model.gguf_file import is_gguf

if TYPE_CHECKING:
    from alphaedit.core.ranks import Ranks
    from alphaedit.editor.guard import Guard
    from alphaedit.editor.session import Editor


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a model is loaded.

    Attributes:
        device: where to compute; the CPU by default.
        dtype: of the weights; as stored by default, float32 on a CPU.
        trust_remote_code: run code that comes with the model.
    """

    device: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False

    def loading(self) -> dict[str, Any]:
        """Those three, as `Editor.from_pretrained` takes them."""
        return {
            "device": self.device,
            "dtype": self.dtype,
            "trust_remote_code": self.trust_remote_code,
        }


@dataclass(frozen=True, kw_only=True)
class Opening(Loading):
    """What the requests of jobs that open an editor have in common.

    Attributes:
        model: a directory, a .gguf file, a hub name, or a bundled model.
        seed: of everything random.
        corpus: text for the second moments; see `Editor.from_pretrained`.
        tokens: token budget of the second moments.
        tolerance: stop before it, once doubling the text changes no second moment by more.
        cache_dir: where second moments are kept.
    """

    model: str
    seed: int = 0
    corpus: str | None = None
    tokens: int | None = None
    tolerance: float | None = None
    cache_dir: Path | None = None

    def open(
        self,
        progress: Progress,
        *,
        ledger: Path | None = None,
        guard: Guard | None = None,
        ranks: Ranks | None = None,
    ) -> Editor:
        """An editor for the model, with the edits in force in `ledger` applied.

        Raises:
            LedgerError: the ledger is broken; found before the model is loaded.
            ModelError: the model cannot be loaded or edited.
        """
        if ledger is not None:
            Ledger(ledger)
        from alphaedit.core.ranks import ALONE
        from alphaedit.editor.session import Editor

        quiet_libraries()
        show_conversion(self.model, progress)
        editor = Editor.from_pretrained(
            self.model,
            **self.loading(),
            seed=self.seed,
            corpus=self.corpus,
            tokens=self.tokens,
            tolerance=self.tolerance,
            cache_dir=self.cache_dir,
            progress=progress,
            guard=guard,
            ranks=ranks or ALONE,
        )
        if ledger is not None:
            editor.load(ledger)
            remember(Ledger(ledger), self.model)
        return editor


def show_conversion(model: str, progress: Progress) -> None:
    """Convert a GGUF file that was never read before, so that it is seen what takes so long."""
    path = Path(model).expanduser()
    if is_gguf(model) and path.is_file():
        from alphaedit.model import gguf

        gguf.converted(path, progress)


def quiet_libraries() -> None:
    """Keep transformers from drawing bars and giving advice: a job tells its own progress."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
