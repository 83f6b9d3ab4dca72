"""The bundled world: real facts, our own phrasings, corpora, training, the shipped models."""
