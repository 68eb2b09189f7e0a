"""Uploaded file -> examples: read, detect, map, validate, render."""
