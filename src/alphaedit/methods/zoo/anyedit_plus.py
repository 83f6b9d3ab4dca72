"""AnyEdit++: AnyEdit with chunks that begin where the text surprises the model."""

from __future__ import annotations

from dataclasses import replace

from alphaedit.methods.zoo import anyedit

METHOD = replace(
    anyedit.METHOD,
    name="anyedit-plus",
    title="AnyEdit++",
    paper="https://arxiv.org/abs/2606.01053",
    summary="AnyEdit whose chunks begin at the words that surprise the unedited model most.",
    defaults={"chunks": "surprise"},
)
