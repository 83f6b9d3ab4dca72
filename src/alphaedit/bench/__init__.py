"""Evaluation: records, metrics, sequential runs."""
