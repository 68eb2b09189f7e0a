"""A run in its own process: specification, loop, checkpoints, events, estimate."""
