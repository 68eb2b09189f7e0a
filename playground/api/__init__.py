"""HTTP beside the page: /healthz, /status, and what this machine's own commands ask."""
