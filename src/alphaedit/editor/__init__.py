"""The Editor: a model, what is known of it, and the edits made so far."""
