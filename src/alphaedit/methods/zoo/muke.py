"""μKE: each chunk's value is searched for all chunks from its own on (Su et al., COLM 2025)."""

from alphaedit.methods.locate_then_edit import LocateThenEdit
from alphaedit.methods.steps.chunks import InChunks, expand

METHOD = LocateThenEdit(
    name="muke",
    title="μKE",
    paper="https://arxiv.org/abs/2504.01196",
    summary="AnyEdit whose values serve their chunk and, with falling weight, all behind it.",
    null_space=True,
    history=True,
    ridge=True,
    expand=expand,
    config=InChunks,
    defaults={"nested": True},
)
