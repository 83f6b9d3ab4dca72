"""LocFT-BF: localised fine-tuning, breadth first (2025)."""

from alphaedit.methods.fine_tune import FineTune

METHOD = FineTune(
    name="locft-bf",
    title="LocFT-BF",
    paper="https://arxiv.org/abs/2509.22072",
    summary="Shuffled mini-batches, epoch by epoch, on one late MLP matrix: the honest baseline.",
    batch=8,
    shuffle=True,
    defaults={"steps": 20, "learning_rate": 5e-4},
)
