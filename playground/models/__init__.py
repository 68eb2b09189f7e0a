"""Bases and adapters in use: loaded, attached, exported."""
