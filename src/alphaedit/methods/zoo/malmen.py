"""MALMEN: a trained network and one least-squares system for many facts (Tan et al., 2024)."""

from __future__ import annotations

from alphaedit.methods.learned.method import LearnedMethod
from alphaedit.methods.learned.ridge_network import MalmenNetwork

METHOD = LearnedMethod(
    name="malmen",
    title="MALMEN",
    paper="https://arxiv.org/abs/2311.04661",
    summary="A network, trained before, and one ridge regression for all facts of a batch.",
    network=MalmenNetwork,
)
