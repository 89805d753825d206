"""What operators see: metrics, logs, open streams, the admin listener."""
