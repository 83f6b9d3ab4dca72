"""PRUNE (Ma et al., ICLR 2025)."""

from alphaedit.methods.locate_then_edit import LocateThenEdit

METHOD = LocateThenEdit(
    name="prune",
    title="PRUNE",
    paper="https://arxiv.org/abs/2405.16821",
    summary="MEMIT whose accumulated change has its large singular values restrained.",
    moment=True,
    plugins=("prune",),
)
