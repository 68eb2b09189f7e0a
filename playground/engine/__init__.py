"""One frozen base, many adapters, one batch: load, slots, sampling, stamps. Importing this package does not import torch."""
