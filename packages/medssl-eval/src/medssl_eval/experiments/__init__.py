"""The experiments of this package: few-shot, linear, k-NN, fine-tuning, and what they share."""
