"""The commands of medssl-saliency, one module each."""
