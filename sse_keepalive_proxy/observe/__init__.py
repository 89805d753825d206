"""The operator's view: metrics, logs, open streams, the admin listener."""
