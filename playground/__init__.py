"""Prompt or Tune: is a good prompt enough, or should you fine-tune? Measured on your own examples."""

__version__ = "0.1.0"
