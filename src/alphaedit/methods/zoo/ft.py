"""FT: plain fine-tuning of one matrix."""

from alphaedit.methods.fine_tune import FineTune

METHOD = FineTune(
    name="ft",
    title="FT",
    paper="https://arxiv.org/abs/2012.00363",
    summary="Adam on one MLP output matrix, on the facts' prompts.",
    defaults={"steps": 25, "learning_rate": 5e-4},
)
