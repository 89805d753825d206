"""A stand-in for notify-server, and the story of a healed stream."""

from __future__ import annotations

__all__ = ["DEFAULT_PORT"]

DEFAULT_PORT = 8090
"""Where the demo's proxy and its page are."""
