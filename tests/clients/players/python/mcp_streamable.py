"""MCP over streamable HTTP with `mcp`."""

import anyio
from mcp_session import OWN, session_over

try:
    from mcp.client.streamable_http import streamablehttp_client as connect
except ImportError:  # from 2 on
    from mcp.client.streamable_http import streamable_http_client as connect

__all__ = ["OWN", "play"]


def play(url, key, say):
    anyio.run(session_over, lambda: connect(f"{url}/mcp"), say)
