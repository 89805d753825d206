"""What a request leaves: nothing that only the garbage collector would find, which stops every stream."""

from __future__ import annotations

import gc

import pytest

from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    RawUpstream,
    Step,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop, soon

EVENTS = f"GET /events HTTP/1.1\r\nHost: a\r\n{EVENT_SOURCE}\r\n\r\n".encode()
PLAIN = b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n"
UPLOAD = b"POST /plain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"


@on_each_loop
@pytest.mark.parametrize(
    ("sent", "steps", "received"),
    [
        (EVENTS, [stream_head(), chunk(b"id: 1\ndata: x\n\n")], b"data: x"),
        (EVENTS, [response("404 Not Found", b"no")], b"no"),
        (PLAIN, [response(body=b"whole")], b"whole"),
        (UPLOAD, [response(body=b"whole")], b"whole"),
        (UPLOAD[:-5] + b"zz\r\n", [], b" 400 "),
        (b"GET /unfinished", [], b""),
    ],
    ids=["a stream", "no stream", "a plain request", "an upload", "a broken upload", "no request"],
)
async def test_nothing_is_left_that_only_the_collector_would_find(
    sent: bytes, steps: list[Step], received: bytes
) -> None:
    async with RawUpstream([GOT_REQUEST, *steps]) as upstream, Instance(config(upstream)) as proxy:

        async def play() -> None:
            async with await RawClient.connect(proxy.url) as client:
                client.send(sent)
                await client.wait_for(received)

        async def settled() -> None:
            await soon(lambda: not proxy.proxy.busy and not proxy.upstream_connections)

        await play()  # what is made once is made now
        await settled()
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                await play()
            await settled()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            found = {type(each) for each in gc.garbage}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        ours = {each for each in found if each.__module__.startswith(("sse_keepalive_proxy", "aiohttp"))}
        assert ours == set()
