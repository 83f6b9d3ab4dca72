"""MEMIT with history that preserves what names stand for, besides running text."""

from alphaedit.methods.locate_then_edit import LocateThenEdit

METHOD = LocateThenEdit(
    name="memit-names",
    title="MEMIT with history and names",
    paper="https://arxiv.org/abs/2210.07229",
    summary="R K'(w (C + C_names)/2 + Kp Kp' + K K')^-1: what it keeps is of text and of names.",
    moment=True,
    history=True,
    plugins=("names",),
)
