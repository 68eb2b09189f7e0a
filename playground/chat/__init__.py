"""Questions to one or several sides, answered in one batch."""
