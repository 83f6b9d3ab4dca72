"""The error tree: every failure says what happened, where, and what to do about it."""

from collections.abc import Iterable
from difflib import get_close_matches


class AlphaEditError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        message: What is wrong, and where (file, line, field, layer, ...).
        remedy: What the reader can do about it; shown after the message.
    """

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message


class AlphaEditWarning(UserWarning):
    """Base of every warning that this package gives."""


class VerdictWarning(AlphaEditWarning):
    """Facts do not hold after an edit."""


class RepeatWarning(AlphaEditWarning):
    """Facts that are edited were edited before."""


class GuardWarning(AlphaEditWarning):
    """Edits have moved the rest of the model further than the guard allows."""


class SkippedWarning(AlphaEditWarning):
    """Records were set aside."""


class CacheWarning(AlphaEditWarning):
    """The cache is of no use as it is; work goes on without it."""


class GGUFWarning(AlphaEditWarning):
    """A GGUF file means something that the model read from it does not do."""


class BrokenEntryPoint(AlphaEditWarning):
    """Another package declares a method or plug-in that cannot be loaded."""


class FactError(AlphaEditError):
    """A fact, or a record of a facts file, cannot be used.

    Args:
        message: What is wrong.
        remedy: What to do about it.
        where: File and line or record, such as ``facts.jsonl, line 3``; opens the message.
        field: Name of the offending field.
    """

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        where: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(f"{where}: {message}" if where else message, remedy=remedy)
        self.bare = message
        self.where = where
        self.field = field

    def at(self, where: str) -> "FactError":
        """The same error, placed at `where` unless it already has a place."""
        if self.where:
            return self
        return type(self)(self.bare, remedy=self.remedy, where=where, field=self.field)


class SubjectError(FactError):
    """The subject is missing from its prompt, or met twice in it."""


class ConfigError(AlphaEditError):
    """A setting has an unknown name or an impossible value."""


class UnknownNameError(ConfigError):
    """A name (method, layer, field, ...) that does not exist."""


class ModelError(AlphaEditError):
    """A model cannot be loaded or edited."""


class ArchitectureError(ModelError):
    """The structure that editing needs was not found in a model."""


class NonFiniteError(ModelError):
    """Weights, factors or activations hold NaN or infinity."""


class StatsError(AlphaEditError):
    """Statistics of a corpus cannot be computed or read."""


class FingerprintError(StatsError):
    """Statistics or an edit belong to another model, layer or corpus."""


class SubspaceError(StatsError):
    """A projection cannot be built, or would leave nothing or everything."""


class EditFileError(AlphaEditError):
    """A saved edit or state is missing, broken or was tampered with."""


class LedgerError(EditFileError):
    """A ledger is missing, broken, was tampered with, or does not hold what was asked for."""


class ConflictError(LedgerError):
    """Edits of two ledgers say different things of the same prompts."""


class GuardError(AlphaEditError):
    """A guard ended a sequence of edits.

    Args:
        message: What is past its limit.
        remedy: What to do about it.
        kept: Whether the batch that went past it is still in the model.
    """

    def __init__(self, message: str, *, remedy: str | None = None, kept: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        self.kept = kept


class Cancelled(AlphaEditError):
    """Whoever started a job has asked it to stop."""


class DataError(AlphaEditError):
    """A data set does not follow its schema."""


class ResourceError(AlphaEditError):
    """Memory or disk does not suffice."""


class BusyError(ResourceError):
    """As many requests wait as may.

    Args:
        message: What is full.
        remedy: What to do about it.
        seconds: When to ask again.
    """

    def __init__(self, message: str, *, remedy: str | None = None, seconds: int = 1) -> None:
        super().__init__(message, remedy=remedy)
        self.seconds = seconds


class StoppingError(ResourceError):
    """The service takes no more requests."""


class FieldError(ConfigError):
    """A field of a request has an impossible value.

    Args:
        message: What is wrong.
        remedy: What to do about it.
        field: Name of the field.
    """

    def __init__(self, message: str, *, remedy: str | None = None, field: str) -> None:
        super().__init__(message, remedy=remedy)
        self.field = field


class RequestError(AlphaEditError):
    """A request over HTTP is none that can be read, or may not be made.

    Args:
        message: What is wrong.
        remedy: What to do about it.
        status: HTTP's number for it.
        code: OpenAI's word for it, or ours.
    """

    def __init__(self, message: str, *, remedy: str, status: int, code: str) -> None:
        super().__init__(message, remedy=remedy)
        self.status, self.code = status, code


def nearest(name: str, available: Iterable[str]) -> list[str]:
    """Up to three of `available` that look like `name`, best first."""
    by_folded = {known.casefold(): known for known in available}
    matches = get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.6)
    return [by_folded[folded] for folded in matches]


def suggestion(name: str, available: Iterable[str]) -> str:
    """A sentence that helps after an unknown `name`: the nearest names, then all of them."""
    names = list(available)
    if not names:
        return "None is available."
    close = nearest(name, names)
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    meant = f"Did you mean {' or '.join(repr(n) for n in close)}? " if close else ""
    return f"{meant}Available: {shown}."


def unknown_name(kind: str, name: str, available: Iterable[str]) -> UnknownNameError:
    """The error for an unknown `name`.

    Args:
        kind: What it would be a name of, such as ``method``.
        name: The name that was given.
        available: The names that exist.

    Returns:
        An error to raise, which suggests the nearest names.
    """
    return UnknownNameError(f"Unknown {kind} {name!r}.", remedy=suggestion(name, available))
