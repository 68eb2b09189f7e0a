"""Checks and figures: what a reply is measured by."""
