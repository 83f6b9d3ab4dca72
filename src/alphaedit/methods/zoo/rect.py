"""RECT (Gu et al., EMNLP 2024)."""

from alphaedit.methods.locate_then_edit import LocateThenEdit

METHOD = LocateThenEdit(
    name="rect",
    title="RECT",
    paper="https://arxiv.org/abs/2401.04700",
    summary="MEMIT that keeps the 40 % of entries with the largest relative change.",
    moment=True,
    plugins=("rect",),
)
