"""Subspaces, low-rank matrices and the solver: tensors in, tensors out, no models."""
