"""Training drafters: one loop, from a laptop to a GPU."""
