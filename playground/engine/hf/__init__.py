"""Any family: Hugging Face's forward pass and cache, with adapter slots beside its linear layers."""
