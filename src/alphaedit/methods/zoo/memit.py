"""MEMIT (Meng et al., ICLR 2023), as published: no memory of earlier batches."""

from alphaedit.methods.locate_then_edit import LocateThenEdit

METHOD = LocateThenEdit(
    name="memit",
    title="MEMIT",
    paper="https://arxiv.org/abs/2210.07229",
    summary="R K'(w C + K K')^-1: ridge regression weighted by the second moment of keys.",
    moment=True,
)
