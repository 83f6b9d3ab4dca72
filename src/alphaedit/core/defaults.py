"""What is taken where nothing is said."""

METHOD = "alphaedit-weighted"
"""The editing method: docs/best-default.md says why."""
