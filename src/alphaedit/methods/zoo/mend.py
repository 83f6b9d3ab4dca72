"""MEND: a trained network turns the gradient of a fact into its edit (Mitchell et al., 2022)."""

from __future__ import annotations

from alphaedit.methods.learned.method import LearnedMethod
from alphaedit.methods.learned.outer_network import MendNetwork

METHOD = LearnedMethod(
    name="mend",
    title="MEND",
    paper="https://arxiv.org/abs/2110.11309",
    summary="A network, trained before, turns the gradient of each fact into a low-rank change.",
    network=MendNetwork,
)
