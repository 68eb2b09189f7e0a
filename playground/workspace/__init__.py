"""The home folder: visitors, uploads, quotas, example sets."""
