"""Passes through a model that leave out what their question does not need; see README.md."""
