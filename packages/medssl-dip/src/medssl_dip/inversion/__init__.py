"""Inversion: what is matched, how runs are optimised together, and what they leave on disk."""
