"""MCP over its old transport, HTTP with SSE, with `mcp`."""

import anyio
from mcp.client.sse import sse_client
from mcp_session import OWN, session_over

__all__ = ["OWN", "play"]


def play(url, key, say):
    anyio.run(session_over, lambda: sse_client(f"{url}/sse"), say)
