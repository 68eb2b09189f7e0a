"""Who may use the device, and when: device (what it has), policy (pure decisions), manager (effects)."""
