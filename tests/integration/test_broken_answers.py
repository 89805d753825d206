"""Answers that are none, or not whole: what the client is told, and that it is never told more than is true.

Connections that cannot be made are in `tests/http/test_dialer.py`.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

import pytest

from sse_keepalive_proxy.http import dialer
from tests.support.http1 import LAST_CHUNK, chunk, response
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    HOLD,
    RESET,
    RawUpstream,
    Script,
    UpstreamConnection,
)
from tests.support.running import Running, on_each_loop, plain, soon
from tests.support.sockets import Ending

OK = response("200 OK", b"ok")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
TWO_LENGTHS = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\n" + b"A: bcdefgh\r\n" * 30_000
RESET_EARLY = f"upstream's connection broke before it answered: {os.strerror(errno.ECONNRESET)}"
HALF_A_HEAD = "upstream closed the connection in the middle of its response head"
INVALID = "upstream's answer is not valid HTTP: "


async def name_the_target(connection: UpstreamConnection) -> None:
    """Answers with method and target."""
    asked = await connection.next_request(within=60)
    await connection.send(response("200 OK", f"{asked.method} {asked.target}".encode()))


async def answers(client: RawClient, count: int) -> None:
    """Wait for `count` whole answers."""
    await client.wait_for(lambda client: len(client.responses) == count and client.response.complete)


def one_line(client: RawClient, status: int, text: str) -> None:
    """The answer is ours: one line that names the route, nothing of our inside."""
    assert client.response.status == status
    assert client.body == f'route "all": {text}\n'.encode()
    assert client.response.header("content-type") == "text/plain; charset=utf-8"
    assert b"Traceback" not in client.received


@pytest.mark.parametrize(
    ("script", "kind", "why"),
    [
        ([GOT_REQUEST, CLOSE], "reset", "upstream closed the connection before it answered"),
        ([GOT_REQUEST, RESET], "reset", RESET_EARLY),
        ([RESET], "reset", RESET_EARLY),
        ([GOT_REQUEST, b"HTTP/1.1 200 OK\r\nContent-Le", CLOSE], "reset", HALF_A_HEAD),
        (
            [GOT_REQUEST, b"SSH-2.0-OpenSSH_9.2\r\n", HOLD],
            "invalid",
            f"{INVALID}it does not begin with HTTP/",
        ),
        ([GOT_REQUEST, TWO_LENGTHS, HOLD], "invalid", f"{INVALID}it has two different lengths"),
        ([GOT_REQUEST, ENDLESS, HOLD], "invalid", f"{INVALID}its head is larger than 262144 bytes"),
        ([GOT_REQUEST, b"\r\n" * 200_000, HOLD], "invalid", f"{INVALID}its head is larger than 262144 bytes"),
    ],
    ids=["close", "reset", "reset at once", "half a head", "SSH", "two lengths", "endless", "blank lines"],
)
@on_each_loop
async def test_no_answer_is_502_that_says_why_and_the_connection_goes_on(
    script: Script, kind: str, why: str
) -> None:
    async with (
        RawUpstream(script, name_the_target) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/x")
        await client.wait_response()
        one_line(client, 502, why)
        assert proxy.metric("sse_proxy_upstream_errors_total", route="all", kind=kind) == 1
        client.request("/next")
        await client.wait_for(b"GET /next")


@on_each_loop
async def test_no_answer_in_time_is_504_and_upstream_is_closed() -> None:
    def impatient(url: str) -> str:
        return (
            f"upstreams: {{up: {{url: '{url}', response_timeout: 100ms}}, same: {{url: '{url}'}}}}\n"
            "routes:\n"
            "  - {name: all, match: {path: /x}, upstream: up}\n"
            "  - {name: next, match: {path: /next}, upstream: same}\n"
        )

    async with (
        RawUpstream([GOT_REQUEST, HOLD], name_the_target) as upstream,
        Running(impatient(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/x")
        await client.wait_response()
        one_line(client, 504, "upstream took too long")
        await (await upstream.connection()).wait_closed()
        assert proxy.metric("sse_proxy_upstream_errors_total", route="all", kind="timeout") == 1
        client.request("/next")
        await client.wait_for(b"GET /next")


@on_each_loop
async def test_the_time_for_an_answer_is_over_with_its_head() -> None:
    script = [GOT_REQUEST, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", 0.7, b"k"]
    async with (
        RawUpstream(script) as upstream,
        Running(plain(upstream.url, upstream="response_timeout: 500ms")) as proxy,
        await proxy.client() as client,
    ):
        client.request("/x")
        await client.wait_response()
        assert client.body == b"ok"


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", CLOSE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", RESET),
        (CHUNKED + chunk(b"half"), CLOSE),
        (CHUNKED + chunk(b"half"), RESET),
        (CHUNKED + chunk(b"half"), b"not a chunk"),
        (UNTIL_CLOSE + b"half", RESET),
    ],
    ids=["short", "short by reset", "no last chunk", "reset in chunks", "broken chunk", "reset at the end"],
)
@on_each_loop
async def test_an_answer_that_breaks_off_is_cut_and_never_made_whole(begin: bytes, end: Any) -> None:
    go_on = asyncio.Event()
    async with (
        RawUpstream([GOT_REQUEST, begin, go_on, end]) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/")
        await client.wait_for(b"half")
        go_on.set()
        await client.wait_end()
        assert not client.response.complete
        assert client.body == b"half"
        await soon(lambda: proxy.idle)
        kind = "invalid" if isinstance(end, bytes) else "reset"
        assert proxy.metric("sse_proxy_upstream_errors_total", route="all", kind=kind) == 1
        assert proxy.metric("sse_proxy_requests_total", route="all", method="GET", code="200") == 1


@on_each_loop
async def test_a_second_answer_reaches_no_client() -> None:
    second = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"
    for first in (OK, CHUNKED + chunk(b"ok") + LAST_CHUNK, b"HTTP/1.1 204 No Content\r\n\r\n"):
        async with (
            RawUpstream([GOT_REQUEST, first + second], name_the_target) as upstream,
            Running(plain(upstream.url)) as proxy,
            await proxy.client() as client,
        ):
            client.request("/1")
            await answers(client, 1)
            client.request("/2")
            await answers(client, 2)
            assert client.body == b"GET /2"
            assert b"secret" not in client.received


@on_each_loop
async def test_a_fault_of_our_own_is_500_in_one_line_and_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError("secret")

    async with RawUpstream(name_the_target) as upstream, Running(plain(upstream.url)) as proxy:
        with monkeypatch.context() as patched:
            patched.setattr(dialer, "Exchange", breaks)
            async with await proxy.client() as client:
                client.request("/x")
                await client.wait_end()
                one_line(client, 500, "the proxy failed; its log says why")
        assert "please report this" in caplog.text
        async with await proxy.client() as client:
            client.request("/next")
            await client.wait_for(b"GET /next")


@on_each_loop
async def test_an_http_1_0_client_is_reset_where_a_close_would_look_like_a_whole_body() -> None:
    for end in (CLOSE, RESET):
        go_on = asyncio.Event()
        async with (
            RawUpstream([GOT_REQUEST, CHUNKED + chunk(b"half"), go_on, end]) as upstream,
            Running(plain(upstream.url)) as proxy,
            await proxy.client() as client,
        ):
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            await client.wait_for(b"half")
            go_on.set()
            assert await client.wait_end() is Ending.RESET
