"""AnyEdit: long targets, chunk by chunk (Jiang et al., 2025), solved as AlphaEdit solves."""

from alphaedit.methods.locate_then_edit import LocateThenEdit
from alphaedit.methods.steps.chunks import InChunks, expand

METHOD = LocateThenEdit(
    name="anyedit",
    title="AnyEdit",
    paper="https://arxiv.org/abs/2502.05628",
    summary="Targets of any length and format: one key-value pair for each chunk, in one system.",
    null_space=True,
    history=True,
    ridge=True,
    expand=expand,
    config=InChunks,
)
