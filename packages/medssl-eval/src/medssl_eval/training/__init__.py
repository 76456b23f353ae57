"""Training a whole network: images, loop, checkpoints, learning curves."""
