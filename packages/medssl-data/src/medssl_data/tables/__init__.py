"""Tables as people send them, and the paths that stand in them."""
