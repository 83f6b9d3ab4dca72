"""The errors and warnings of the package, in one place.

All errors are an `AlphaEditError` with `message` and `remedy`; all warnings an `AlphaEditWarning`.
"""

from alphaedit.core.errors import (
    AlphaEditError,
    AlphaEditWarning,
    ArchitectureError,
    Cancelled,
    ConfigError,
    ConflictError,
    DataError,
    EditFileError,
    FactError,
    FingerprintError,
    GuardError,
    LedgerError,
    ModelError,
    NonFiniteError,
    RepeatWarning,
    ResourceError,
    StatsError,
    SubjectError,
    SubspaceError,
    UnknownNameError,
    VerdictWarning,
)

__all__ = [
    "AlphaEditError",
    "AlphaEditWarning",
    "ArchitectureError",
    "Cancelled",
    "ConfigError",
    "ConflictError",
    "DataError",
    "EditFileError",
    "FactError",
    "FingerprintError",
    "GuardError",
    "LedgerError",
    "ModelError",
    "NonFiniteError",
    "RepeatWarning",
    "ResourceError",
    "StatsError",
    "SubjectError",
    "SubspaceError",
    "UnknownNameError",
    "VerdictWarning",
]
