"""Idle connections are kept longer than any front keeps its own (facts.md#idle-connections-of-fronts)."""

from __future__ import annotations

import select
import time

from sse_keepalive_proxy.http.connection import ClientConnection
from tests.support.idle_connection import IdleConnection
from tests.support.raw_upstream import GOT_REQUEST, RawUpstream, response
from tests.support.running import Running, on_each_loop, plain, soon

CDN_KEEPS = 900  # seconds; cloudflared 90


def test_a_connection_that_was_idle_for_80_seconds_takes_a_post(idle_connection: IdleConnection) -> None:
    client = idle_connection.client
    left = idle_connection.since + 80 - time.monotonic()
    closed, _, _ = select.select([client.sock], [], [], max(left, 0))
    assert not closed
    for _ in range(2):
        client.request("POST", "/demo/publish", b'{"subject": "nobody.listens", "payload": {}}')
        answer = client.getresponse()
        assert (answer.status, b'"dropped":true' in answer.read()) == (200, True)
    used = {"route": "rest", "method": "POST", "code": "200"}
    idle_connection.proxy.wait_for_metric("sse_proxy_requests_total", 2, **used)
    assert idle_connection.proxy.metric("sse_proxy_requests_total", **used) == 2


@on_each_loop
async def test_an_answered_connection_is_kept_longer_than_a_cdn_keeps_its_end() -> None:
    async with (
        RawUpstream([GOT_REQUEST, response(body=b"hello")]) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/")
        await client.wait_response()
        await soon(lambda: proxy.idle)
        (connection,) = proxy.proxy.frontend.connections
        assert isinstance(connection, ClientConnection)
        assert connection.keepalive_timeout > CDN_KEEPS  # and nothing of ours closes it
        assert connection._wakes_at is None
