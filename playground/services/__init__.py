"""What a person can do: prepare a base, check a file, train, keep adapters, compare. No Gradio, no torch at import."""
