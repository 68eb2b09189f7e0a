"""Prompt or Tune: is a good prompt enough, or should you fine-tune? Measured on your own examples."""

import os

__version__ = "0.1.0"

if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    # OpenMP reads it when torch is first imported, so whatever process begins here has it. A waiting thread looks for
    # work so often (by
    # default 300,000 times) before it sleeps and leaves its core to others; alone 30,000 makes no difference, and 2,000
    # costs a seventh
    os.environ["GOMP_SPINCOUNT"] = "30000"
