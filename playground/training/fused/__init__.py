"""The training step's forward pass for the Llama family, with gradients written out by hand."""
