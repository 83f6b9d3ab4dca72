"""MEMIT with the keys of earlier batches in its system (sequential = all at once)."""

from alphaedit.methods.locate_then_edit import LocateThenEdit

METHOD = LocateThenEdit(
    name="memit-history",
    title="MEMIT with history",
    paper="https://arxiv.org/abs/2210.07229",
    summary="R K'(w C + Kp Kp' + K K')^-1: MEMIT that also keeps what it edited before.",
    moment=True,
    history=True,
)
