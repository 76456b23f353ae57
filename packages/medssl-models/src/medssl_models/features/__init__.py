"""Features of images: extraction, where and how it runs, and the store that keeps them."""
