"""What is taken where nothing is said: docs/best-default.md says why."""

METHOD = "auto"
"""In the place of a method's name: `GATED`, or `WEIGHTS` where `editor.standard` says so."""
GATED = "gated"
"""What changes least besides the facts; it acts while the model runs, or as neurons."""
WEIGHTS = "alphaedit-weighted"
"""The best of what changes the matrices that are there, as adapters and GGUF files need it."""
