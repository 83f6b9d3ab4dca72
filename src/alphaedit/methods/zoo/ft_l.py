"""FT-L: fine-tuning within a box (Zhu et al., 2020)."""

from alphaedit.methods.fine_tune import Bounded, FineTune

METHOD = FineTune(
    name="ft-l",
    title="FT-L",
    paper="https://arxiv.org/abs/2012.00363",
    summary="FT whose entries change by at most `bound` each.",
    config=Bounded,
    defaults={"steps": 25, "learning_rate": 5e-4},
)
