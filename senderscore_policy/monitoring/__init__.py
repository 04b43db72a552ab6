"""What the daemon remembers and counts of its decisions: the log, the metrics, clients and their history."""
