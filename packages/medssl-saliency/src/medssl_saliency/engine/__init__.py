"""Exact and fast occlusion of a network: what it does, which windows to measure, and how."""
