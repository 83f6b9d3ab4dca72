"""Where a model keeps its facts, and what to edit."""
