"""μKE: each chunk's value is searched for all chunks from its own on (Su et al., COLM 2025)."""

from __future__ import annotations

from dataclasses import replace

from alphaedit.methods.zoo import anyedit

METHOD = replace(
    anyedit.METHOD,
    name="muke",
    title="μKE",
    paper="https://arxiv.org/abs/2504.01196",
    summary="AnyEdit whose values serve their chunk and, with falling weight, all behind it.",
    defaults={"nested": True},
)
