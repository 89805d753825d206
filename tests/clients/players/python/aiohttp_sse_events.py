"""Events with `aiohttp-sse-client` or `aiohttp-sse-client2`. They connect again whenever the stream ends."""

import asyncio

import aiohttp

try:
    from aiohttp_sse_client2 import client
except ImportError:
    from aiohttp_sse_client import client

OWN = (aiohttp.ClientError, ConnectionError)


def play(url, key, say):
    asyncio.run(listen(f"{url}?access_token={key}", say))


async def listen(url, say):
    async with client.EventSource(url) as source:
        async for event in source:
            say([event.type, event.data, event.last_event_id])
            if event.data == "done":
                break
