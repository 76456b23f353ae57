"""Records as tables, curves and pictures."""
