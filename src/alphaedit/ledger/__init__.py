"""Edits under version control: a journal that only grows, and the edits it speaks of."""
