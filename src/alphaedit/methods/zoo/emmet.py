"""EMMET: MEMIT with equality constraints (Gupta et al., EMNLP 2024)."""

from alphaedit.methods.locate_then_edit import LocateThenEdit

METHOD = LocateThenEdit(
    name="emmet",
    title="EMMET",
    paper="https://arxiv.org/abs/2403.14236",
    summary="R (K'C^-1 K)^-1 K'C^-1: ROME's exact memorisation for a whole batch.",
    moment=True,
    equality=True,
)
