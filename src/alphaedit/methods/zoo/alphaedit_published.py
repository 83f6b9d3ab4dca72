"""AlphaEdit as its published code runs it (Fang et al., ICLR 2025)."""

from alphaedit.methods.locate_then_edit import LocateThenEdit

METHOD = LocateThenEdit(
    name="alphaedit-published",
    title="AlphaEdit, as published",
    paper="https://arxiv.org/abs/2410.02355",
    summary="AlphaEdit that remembers the keys as they are after all layers changed.",
    null_space=True,
    history=True,
    history_after=True,
    ridge=True,
    always={"turns": 1},
)
