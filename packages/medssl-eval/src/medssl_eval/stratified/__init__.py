"""Scores within the values of a column, and scores that are adjusted for it."""
