"""The connections to NATS. Knows no route and no stream."""
