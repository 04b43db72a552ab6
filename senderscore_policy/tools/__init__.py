"""What one command needs alone; `serve` imports none of it."""
