"""AlphaEdit's null space with MEMIT's weight in it: what changes least of other text."""

from alphaedit.methods.locate_then_edit import LocateThenEdit

METHOD = LocateThenEdit(
    name="alphaedit-weighted",
    title="AlphaEdit, weighted",
    paper="https://arxiv.org/abs/2410.02355",
    summary="R K'P (w P C P + Kp Kp'P + K K'P)^-1: in the null space too, what text uses most "
    "moves least; facts lean on the layers that reach them.",
    null_space=True,
    moment=True,
    history=True,
    defaults={"layer_shares": "reach"},
)
