"""Benchmarks of knowledge editing in their published schemas, all read into `EditRecord`s."""
