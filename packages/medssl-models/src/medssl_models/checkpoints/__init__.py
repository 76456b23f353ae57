"""Readers of weights files, one module per container; none of them runs what a file says."""
