"""The Llama family: a forward pass in plain torch over the loaded model's own weights."""
