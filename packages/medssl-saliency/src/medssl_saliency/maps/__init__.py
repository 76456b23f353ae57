"""Saliency maps: how they are asked for, computed, kept on disk and summarised in numbers."""
