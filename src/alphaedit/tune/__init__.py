"""Find hyperparameters for a model by pilot edits."""
