"""Adapters and bases on disk: cards, checks, import, export. Nothing here needs torch to look or to list."""
