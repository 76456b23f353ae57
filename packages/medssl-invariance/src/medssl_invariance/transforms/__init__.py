"""What is done to pictures: families of transforms, their grids, and batches of their results."""
