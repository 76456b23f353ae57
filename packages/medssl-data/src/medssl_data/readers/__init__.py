"""Layouts on disk -> manifests. One module a field of medicine, and three for your own files."""
