"""The model layer: the one place that knows transformers' models and tokenizers."""
