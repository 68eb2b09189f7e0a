"""One frozen base, many adapters, one batch. Importing this package does not import torch."""
