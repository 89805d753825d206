"""A reverse proxy that keeps server-sent event streams alive."""

__version__ = "0.1.0"
