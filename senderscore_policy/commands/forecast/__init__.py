"""The command `forecast`: mail logs replayed against the limits."""
