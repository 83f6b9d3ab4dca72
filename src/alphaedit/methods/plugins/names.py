"""Preserve what names stand for, besides running text."""

from __future__ import annotations

from dataclasses import dataclass

from alphaedit.methods.base import Statistics
from alphaedit.methods.plugin import Plugin
from alphaedit.stats.statistics import ModelStatistics


@dataclass(frozen=True)
class Names(Plugin):
    """The preserved keys are in part those at the ends of names, where facts are stored.

    Attributes:
        share: of the second moment that is over the ends of names; the rest is over all tokens.
    """

    share: float = 0.5

    name = "names"
    title = "Names"
    paper = ""
    summary = "Half of what is preserved are the ends of names in the text, where facts are stored."
    solves = True

    def __post_init__(self) -> None:
        """Check the options."""
        self.check("share", "a share from 0 to 1", 0 <= self.share <= 1)

    def statistics(self, known: Statistics) -> Statistics:
        """See Plugin."""
        return known.with_names(self.share) if isinstance(known, ModelStatistics) else known


PLUGIN = Names
