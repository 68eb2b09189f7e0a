"""HTTP beside the page: /v1, /healthz, /status, /metrics."""
