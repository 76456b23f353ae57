"""Metrics, intervals, paired tests and ranks of methods."""
