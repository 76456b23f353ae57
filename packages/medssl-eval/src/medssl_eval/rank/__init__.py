"""Which backbone suits these images: rounds on more and more of them, and the verdict."""
