"""Phantoms: pictures of nobody, drawn on demand or written in the layout of a real data set."""
