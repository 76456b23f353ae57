"""Finished runs summarised and drawn: a picture beside what models and layers remember of it."""
