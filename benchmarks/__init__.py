"""Measurements against plain computations, outside the test suite; results are in results/."""
