"""Training runs: planned, queued, started as processes of their own, supervised."""
