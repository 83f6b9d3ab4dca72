"""The steps that locate-then-edit methods share: contexts, keys, target values."""
