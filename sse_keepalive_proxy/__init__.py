"""A sidecar that keeps server-sent event streams alive, honest and observable."""

__version__ = "0.1.0"
