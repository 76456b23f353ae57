"""Weights on this machine: the library of converted models, downloads, bundles."""
