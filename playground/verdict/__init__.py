"""Several sides on held-out examples, and what follows from it."""
