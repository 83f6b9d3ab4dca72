"""Errors of the libraries that read models, told with their remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

from alphaedit.core.errors import AlphaEditError, ModelError, ResourceError
from alphaedit.model.memory import is_out_of_memory
from alphaedit.model.source import needs_code

FILES = (
    "Give a directory written by save_pretrained (config.json, weights, tokenizer.json, "
    "tokenizer_config.json), a hub name, or 'bundled'."
)
_NO_EXCEPTIONS = ("PanicException", "CheckpointException")
"""What Rust libraries and PyTorch's sharded checkpoints raise that is no Exception."""
AGAIN = "Download or save the model again; its config may also belong to another model."


@contextmanager
def told(what: str, remedy: str = FILES) -> Iterator[None]:
    """What transformers, tokenizers and safetensors raise, as an error that says what it means.

    Args:
        what: the thing that is read, to begin the message.
        remedy: where nothing better is known.

    Raises:
        ModelError: whatever was raised that is no error of ours.
        ResourceError: memory does not suffice.
    """
    try:
        yield
    except AlphaEditError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ not in _NO_EXCEPTIONS:
            raise
        raise _explained(what, remedy, error) from error


def _explained(what: str, remedy: str, error: BaseException) -> AlphaEditError:
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if type(error).__name__ == "CheckpointException":  # a traceback of each rank
        lines = lines[-1:]
    line = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])[:300]
    line = line or type(error).__name__
    if is_out_of_memory(error) or "allocate memory" in text:
        return ResourceError(
            f"{what} does not fit into memory: {line}",
            remedy="Use a smaller model, a machine with more memory, or dtype bfloat16.",
        )
    if "trust_remote_code" in text or "custom code" in text:
        return needs_code(what)
    if isinstance(error, UnpicklingError) or "weights_only" in text:
        return ModelError(
            f"{what} has weights in a pickle file that was refused: it holds more than tensors, "
            "and reading it would run code.",
            remedy="Do not load it elsewhere unless you trust who made it. Get the model as "
            "safetensors (save_pretrained writes them).",
        )
    if "above report" in text or "report above" in text:
        return ModelError(f"{what} has weights that do not fit its config.", remedy=AGAIN)
    return ModelError(f"{what} cannot be read: {line}", remedy=remedy)
