"""Editors that are networks: what they share, how they are trained and how they lie on disk."""
