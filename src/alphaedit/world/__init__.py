"""The bundled world: real facts, phrasings of our own, corpora, training, and the shipped models."""
