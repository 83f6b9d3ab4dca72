"""AnyEdit++: AnyEdit with chunks that begin where the text surprises the model."""

from alphaedit.methods.locate_then_edit import LocateThenEdit
from alphaedit.methods.steps.chunks import InChunks, expand

METHOD = LocateThenEdit(
    name="anyedit-plus",
    title="AnyEdit++",
    paper="https://arxiv.org/abs/2606.01053",
    summary="AnyEdit whose chunks begin at the words that surprise the unedited model most.",
    null_space=True,
    history=True,
    ridge=True,
    expand=expand,
    config=InChunks,
    defaults={"chunks": "surprise"},
)
