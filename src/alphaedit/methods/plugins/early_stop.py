"""ENCORE's most probable early stopping (Gupta et al., 2025)."""

from __future__ import annotations

from dataclasses import dataclass

from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.plugin import Plugin


@dataclass(frozen=True)
class EarlyStop(Plugin):
    """Ends a fact's target search once its target has been the most likely for `steps` steps.

    Attributes:
        steps: steps in a row in which every token is most likely in every context (published: 2).
    """

    steps: int = 2

    name = "early-stop"
    title = "Early stopping (ENCORE)"
    paper = "https://arxiv.org/abs/2502.01636"
    summary = "Ends the target search once the target is most likely in every context."
    searches = True

    def __post_init__(self) -> None:
        """Check the options."""
        self.check("steps", "a whole number from 1", self.steps >= 1 and self.steps % 1 == 0)

    def search(self, hp: Hyperparameters) -> Hyperparameters:
        """See Plugin."""
        return hp.model_copy(update={"top1_steps": int(self.steps)})


PLUGIN = EarlyStop
