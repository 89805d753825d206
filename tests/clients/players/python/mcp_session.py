"""One session of `mcp`: it begins, calls a tool, hears its progress and its result."""

from mcp import ClientSession

try:
    import httpx
    from mcp.shared.exceptions import McpError
except ImportError:  # from 2 on
    import httpx2 as httpx
    from mcp.shared.exceptions import MCPError as McpError

OWN = (McpError, httpx.HTTPError)


async def session_over(connect, say):
    async def progress(done, total, message):
        say(f"progress {done} {message}")

    async def logged(params):
        say(f"log {params.data}")

    async with (
        connect() as (receive, send, *_),
        ClientSession(receive, send, logging_callback=logged) as session,
    ):
        await session.initialize()
        say("initialized")
        result = await session.call_tool("count", {}, progress_callback=progress)
        say(f"result {result.content[0].text}")
