"""AlphaEdit (Fang et al., ICLR 2025)."""

from alphaedit.methods.locate_then_edit import LocateThenEdit

METHOD = LocateThenEdit(
    name="alphaedit",
    title="AlphaEdit",
    paper="https://arxiv.org/abs/2410.02355",
    summary="R K'P (Kp Kp'P + K K'P + ridge I)^-1: solved in the null space of preserved keys.",
    null_space=True,
    history=True,
    ridge=True,
)
