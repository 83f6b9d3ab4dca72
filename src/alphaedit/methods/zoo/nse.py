"""NSE: neuron-level sequential editing (2024), without its repetition over hard facts."""

from alphaedit.methods.locate_then_edit import LocateThenEdit

METHOD = LocateThenEdit(
    name="nse",
    title="NSE",
    paper="https://arxiv.org/abs/2410.04045",
    summary="MEMIT with targets from the unedited weights, in the most active neurons only.",
    moment=True,
    history=True,
    plugins=("nse",),
)
