"""A guard over a sequence of edits: what the rest of the model may lose before it acts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Any

from alphaedit.core.arguments import as_count, as_number, as_text
from alphaedit.core.errors import ConfigError, GuardError, GuardWarning, unknown_name
from alphaedit.stats.drift import TOKENS, Drift

ACTIONS = ("warn", "stop", "rollback")


@dataclass(frozen=True)
class Guard:
    """Measured after each batch, on held-out text, against the unedited model.

    Attributes:
        action: what to do past a limit: "warn"; "stop", keeping the batch and editing no more;
            "rollback", undoing the batch and editing no more.
        max_kl: most KL divergence of next-token distributions, nats a token.
        max_perplexity: most perplexity, as a multiple of the unedited model's.
        text: the text: a file, "hf:NAME", "general", "bundled" or "self"; by default as
            `held_out` says.
        tokens: how much of it.
    """

    action: str = "warn"
    max_kl: float = 0.1
    max_perplexity: float = 1.2
    text: str | None = None
    tokens: int = TOKENS

    def __post_init__(self) -> None:
        """Check the fields."""
        as_text("The guard's action", self.action)
        as_number("Guard: max_kl", self.max_kl)
        as_number("Guard: max_perplexity", self.max_perplexity)
        as_count("Guard: tokens", self.tokens, 0)
        if self.text is not None:
            as_text("Guard: text", self.text)
        if self.action not in ACTIONS:
            raise unknown_name("guard action", self.action, ACTIONS)
        if not self.max_kl > 0:
            raise ConfigError(f"Guard: max_kl is {self.max_kl}.", remedy="Give a number above 0.")
        if not self.max_perplexity > 1:
            raise ConfigError(
                f"Guard: max_perplexity is {self.max_perplexity}.",
                remedy="Give a multiple of the unedited model's, above 1.",
            )
        if self.tokens < 2:
            raise ConfigError(f"Guard: {self.tokens} tokens.", remedy="Give at least 2.")

    @classmethod
    def parse(cls, spec: str) -> Guard:
        """From "ACTION" or "ACTION:KEY=VALUE,...", such as "rollback:max_kl=0.05".

        Raises:
            ConfigError: an unknown action or option, or a value that is not a number.
        """
        action, _, rest = as_text("The guard", spec).partition(":")
        values: dict[str, Any] = {"action": action.strip()}
        known = [field.name for field in fields(cls)][1:]
        for part in filter(None, (p.strip() for p in rest.split(","))):
            name, sign, value = (piece.strip() for piece in part.partition("="))
            name = name.replace("-", "_")
            if name not in known:
                raise unknown_name("guard option", name, known)
            if not sign or not value:
                raise ConfigError(f"Guard: {part!r} is not KEY=VALUE.", remedy="max_kl=0.05, say.")
            if name == "text":
                values[name] = value
                continue
            try:
                values[name] = int(value) if name == "tokens" else float(value)
            except ValueError:
                raise ConfigError(
                    f"Guard: {name} is {value!r}, no number.", remedy="Give a number."
                ) from None
        return cls(**values)

    def complaint(self, drift: Drift) -> str | None:
        """What is past its limit, in words."""
        complaints = []
        # Written so that NaN counts as past the limit.
        if not drift.kl <= self.max_kl:
            complaints.append(f"KL {drift.kl:.4f} nats a token, above {self.max_kl:g}")
        if not drift.ratio <= self.max_perplexity:
            complaints.append(
                f"perplexity {drift.perplexity:.2f}, {drift.ratio:.2f} times the unedited model's, "
                f"above {self.max_perplexity:g} times"
            )
        return " and ".join(complaints) or None

    def act(self, drift: Drift, edit: str) -> None:
        """Warn or raise if `drift` is past a limit.

        Raises:
            GuardError: the action is "stop" or "rollback".
        """
        what = self.complaint(drift)
        if what is None:
            return
        message = f"After edit {edit} the model has moved on held-out text: {what}."
        if self.action == "warn":
            warnings.warn(GuardWarning(message), stacklevel=3)
            return
        done = "is kept" if self.action == "stop" else "was undone"
        raise GuardError(
            f"{message} The batch {done}; nothing more is edited.",
            remedy="Edit fewer facts, by a method or hyperparameters that keep more (alphaedit "
            "tune), or raise the limit.",
            kept=self.action == "stop",
        )
