"""ROME (Meng et al., NeurIPS 2022)."""

from alphaedit.methods.locate_then_edit import LocateThenEdit

METHOD = LocateThenEdit(
    name="rome",
    title="ROME",
    paper="https://arxiv.org/abs/2202.05262",
    summary="One fact at a time, one layer, exact: Delta k = v* - W k at least cost in C.",
    one_by_one=True,
    defaults={"clamp": 4.0, "steps": 20},
)
