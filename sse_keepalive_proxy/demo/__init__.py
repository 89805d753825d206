"""The demo: a stand-in for notify-server, the proxy in front of it, and a page with both streams."""

from __future__ import annotations

__all__ = ["DEFAULT_PORT"]

DEFAULT_PORT = 8090
"""The default port of the demo's proxy and its page."""
