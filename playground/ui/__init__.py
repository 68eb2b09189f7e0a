"""The web page: one module a tab. Handlers turn clicks into calls of services and answers into words; nothing else."""
