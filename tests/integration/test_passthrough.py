"""What is no event stream passes through: requests and answers as they are, bodies streamed both ways.

Upgrades are in `test_websocket.py`, what the parser refuses in `test_smuggling.py`, connections that cannot
be made in `tests/http/test_dialer.py`.
"""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from sse_keepalive_proxy.http import connection
from tests.support.http1 import LAST_CHUNK, Request, chunk, joined, request, response
from tests.support.instance import Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    HOLD,
    RawUpstream,
    Script,
    UpstreamConnection,
)
from tests.support.running import Running, on_each_loop, plain, soon
from tests.support.sockets import Ending

OK = response("200 OK", b"ok")
CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"


async def name_the_target(connection: UpstreamConnection) -> None:
    """Answers with method and target."""
    asked = await connection.next_request(within=60)
    await connection.send(response("200 OK", f"{asked.method} {asked.target}".encode()))


async def answers(client: RawClient, count: int) -> None:
    """Wait for `count` whole answers."""
    await client.wait_for(lambda client: len(client.responses) == count and client.response.complete)


async def heard(upstream: RawUpstream, index: int = 0) -> Request:
    """The request of one of upstream's connections, with its whole body."""
    return await (await upstream.connection(index)).request()


async def exchange(script: Script, raw: bytes) -> tuple[bytes, Request]:
    """What a client gets for its bytes until the answer is whole, and the request that upstream got."""
    async with (
        RawUpstream(script) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.send(raw, method=raw.partition(b" ")[0].decode())
        await client.wait_response()
        return bytes(client.received), await heard(upstream)


# Requests.


@on_each_loop
async def test_every_method_passes_with_a_body_and_without() -> None:
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "M-SEARCH"]
    async with (
        RawUpstream(name_the_target) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        for number, method in enumerate(methods):
            client.request("/x", method=method)
            await answers(client, 2 * number + 1)
            assert client.body == f"{method} /x".encode()
            client.request("/x", method=method, body=b"body")
            await answers(client, 2 * number + 2)
            assert (await heard(upstream, 2 * number + 1)).body == b"body"
        counted = {
            method: proxy.metric("sse_proxy_requests_total", route="all", method=method, code="200")
            for method in ("GET", "POST", "TRACE", "other")
        }
        assert counted == {"GET": 2, "POST": 2, "TRACE": 2, "other": 6}


TARGETS = [
    "/",
    "//",
    "///a//b/",
    "/a/../b/./c",
    "/..",
    "/%2e%2E/%2F",
    "/%41?%41=%zz&&=&a=+%20+",
    "/a?",
    "/a??b",
    "/a?/../b//c",
    "/a;b=c,d/$&'()*+=:@!~-._",
    '/"<>[]^`{|}\\',
]


@pytest.mark.parametrize("prefix", ["", "/base", "/ba%2Fse//x"])
@on_each_loop
async def test_targets_arrive_unchanged_after_the_prefix_of_the_upstream(prefix: str) -> None:
    async with (
        RawUpstream(name_the_target) as upstream,
        Running(plain(upstream.url + prefix + ("/" if prefix else ""))) as proxy,
        await proxy.client() as client,
    ):
        for number, target in enumerate(TARGETS):
            client.request(target)
            await answers(client, number + 1)
            assert client.body == f"GET {prefix}{target}".encode()
        client.request("*", method="OPTIONS")
        await answers(client, len(TARGETS) + 1)
        assert client.body == b"OPTIONS *"


@on_each_loop
async def test_a_requests_head_arrives_unchanged_without_hop_by_hop_fields() -> None:
    raw = (
        b"PUT /x?y HTTP/1.1\r\nhOST: Chat.example:81\r\nX-One: 1\r\nCookie: a=1\r\nx-one:  2 \r\n"
        b"Connection: keep-alive, x-drop\r\nX-Drop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nTrailer: x\r\n"
        b"Proxy-Authorization: b\r\nAuthorization: Bearer t\r\nAccept-Encoding: gzip, br\r\n"
        b"Content-Encoding: gzip\r\nX-Latin: \xe9\r\nX-Empty:\r\nCookie: b=2\r\nRange: bytes=0-1\r\n"
        b"Content-Length: 2\r\n\r\nhi"
    )
    _, asked = await exchange([GOT_REQUEST, OK], raw)
    assert asked.raw_head == (
        b"PUT /x?y HTTP/1.1\r\nHost: Chat.example:81\r\nX-One: 1\r\nCookie: a=1\r\nx-one: 2\r\n"
        b"Authorization: Bearer t\r\nAccept-Encoding: gzip, br\r\nContent-Encoding: gzip\r\n"
        b"X-Latin: \xe9\r\nX-Empty: \r\nCookie: b=2\r\nRange: bytes=0-1\r\n"
        b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: Chat.example:81\r\n"
        b"Content-Length: 2\r\n\r\n"
    )
    assert asked.body == b"hi"


@on_each_loop
async def test_a_stream_route_asks_for_no_coding_and_another_one_for_what_the_client_wants() -> None:
    async with (
        RawUpstream([GOT_REQUEST, OK]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        for number, target in enumerate(("/events", "/other")):
            client.request(target, "Accept-Encoding: gzip")
            await answers(client, number + 1)
        codings = [(await heard(upstream, index)).header("accept-encoding") for index in range(2)]
        assert codings == ["identity", "gzip"]


@on_each_loop
async def test_a_request_of_http_1_0_without_a_host_gets_the_upstreams() -> None:
    received, asked = await exchange([GOT_REQUEST, OK], b"GET /x HTTP/1.0\r\n\r\n")
    assert asked.version == "HTTP/1.1"
    assert asked.header("host") == asked.header("x-forwarded-host")
    assert str(asked.header("host")).startswith("127.0.0.1:")
    assert received.endswith(b"ok")


# Who the client is.


CLAIMS = (
    "X-Forwarded-For: 6.6.6.6, 1.1.1.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: public.example",
    "X-Real-IP: 6.6.6.6",
    "Forwarded: for=6.6.6.6",
    "CF-Connecting-IP: 2.2.2.2",
    "X_Forwarded_For: 6.6.6.6",
    "X-Forwarded_Proto: gopher",
)


# The configuration; X-Forwarded-For, -Proto and -Host, X-Real-IP and CF-Connecting-IP as upstream gets them;
# the client as it is logged.
BELIEVED = ("6.6.6.6, 1.1.1.1, 127.0.0.1", "https", "public.example", "6.6.6.6", "2.2.2.2")
BELIEFS: dict[str, tuple[str, tuple[str | None, ...], str]] = {
    "by default": ("", BELIEVED, "1.1.1.1"),
    "trusted": ("trusted_proxies: [127.0.0.1/32]", BELIEVED, "1.1.1.1"),
    "by Cloudflare's field": ("client_address: CF-Connecting-IP", BELIEVED, "2.2.2.2"),
    "others trusted": (
        "trusted_proxies: [10.0.0.0/8]",
        ("127.0.0.1", "http", "a", None, "2.2.2.2"),
        "127.0.0.1",
    ),
    "nobody trusted": ("trusted_proxies: []", ("127.0.0.1", "http", "a", None, "2.2.2.2"), "127.0.0.1"),
    "nobody trusted with Cloudflare's field": (
        "trusted_proxies: []\nclient_address: CF-Connecting-IP",
        ("127.0.0.1", "http", "a", None, None),
        "127.0.0.1",
    ),
}


@pytest.mark.parametrize("listen", ["127.0.0.1:0", ":0"], ids=["IPv4", "IPv4 and IPv6"])
@on_each_loop
async def test_forwarding_fields_are_believed_from_trusted_peers_alone(
    listen: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket for IPv4 and IPv6 names an IPv4 client `::ffff:127.0.0.1`; that is the same client."""
    caplog.set_level("INFO", "sse_keepalive_proxy.access")
    for case, (rest, forwarded, client) in BELIEFS.items():
        caplog.clear()
        async with RawUpstream([GOT_REQUEST, OK]) as upstream:
            text = plain(upstream.url, rest=f"{rest}\nlisten: '{listen}'")
            async with Running(text) as proxy, await RawClient.connect(port=proxy.port) as sender:
                sender.send(request("/", *CLAIMS, host="a"))
                await sender.wait_response()
            asked = await heard(upstream)
        names = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "cf-connecting-ip")
        assert tuple(asked.header(name) for name in names) == forwarded, case
        assert (asked.header("forwarded") is None) is (forwarded[3] is None)
        assert not [name for name, _ in asked.headers if b"_" in name]
        (line,) = [record for record in caplog.records if record.name == "sse_keepalive_proxy.access"]
        assert line.fields["client"] == client, case  # type: ignore[attr-defined]


# Answers.


REPEATS = (
    b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nDate: now\r\nset-cookie: b=2\r\nSet-Cookie: a=3\r\n"
    b"Server: x\r\nX-Latin: \xe9\r\nX-Empty: \r\nVary: a\r\nVary: b\r\nContent-Length: 2\r\n\r\n"
)
ANSWERS = [
    (b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n", b""),
    (b"HTTP/1.1 304 Not Modified\r\nETag: W/1\r\nContent-Length: 9\r\n\r\n", b""),
    (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", b""),
    (b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\n", b"ab"),
    (b"HTTP/1.1 301 Moved Permanently\r\nLocation: http://a/b\r\nContent-Length: 0\r\n\r\n", b""),
    (b"HTTP/1.1 302 Found\r\nLocation: /x?y#z\r\nContent-Length: 2\r\n\r\n", b"go"),
    (b"HTTP/1.1 307 Temporary Redirect\r\nLocation: //b/\r\nContent-Length: 0\r\n\r\n", b""),
    (b"HTTP/1.1 401 \r\nWWW-Authenticate: A\r\nWWW-Authenticate: B\r\nContent-Length: 1\r\n\r\n", b"x"),
    (b"HTTP/1.1 404 Nicht gefunden \xfc\r\ncontent-length: 2\r\n\r\n", b"no"),
    (b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n", b"oh"),
    (b"HTTP/1.1 599 Last\r\nContent-Length: 0\r\n\r\n", b""),
    (REPEATS, b"ok"),
    (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nETag: x\r\nContent-Length: 24\r\n\r\n",
        gzip.compress(b"body", mtime=0),
    ),
    (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 5\r\n\r\n", b"\x00\xff\r\n\x80"),
]


@on_each_loop
async def test_answers_arrive_byte_for_byte_and_no_redirect_is_followed() -> None:
    async with (
        RawUpstream(*([GOT_REQUEST, head + body] for head, body in ANSWERS)) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        for number, (head, body) in enumerate(ANSWERS):
            client.request("/")
            await answers(client, number + 1)
            assert (client.response.raw_head, client.body) == (head, body)
        assert client.received == b"".join(head + body for head, body in ANSWERS)
        assert len(upstream.connections) == len(ANSWERS)


@on_each_loop
async def test_hop_by_hop_fields_of_an_answer_end_here() -> None:
    raw = (
        b"HTTP/1.1 200 OK\r\nConnection: close, X-Drop\r\nX-Drop: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Upgrade: h2c\r\nProxy-Authenticate: Basic\r\nTrailer: x\r\nX-Keep: 1\r\nContent-Length: 2\r\n\r\nok"
    )
    received, _ = await exchange([GOT_REQUEST, raw], request("/"))
    assert received == b"HTTP/1.1 200 OK\r\nX-Keep: 1\r\nContent-Length: 2\r\n\r\nok"


@on_each_loop
async def test_a_head_request_gets_the_head_and_the_connection_goes_on() -> None:
    heads = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: 1\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\n\r\n",
    ]
    async with (
        RawUpstream(*([GOT_REQUEST, head] for head in heads)) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        for number, head in enumerate(heads):
            client.request("/", method="HEAD")
            await answers(client, number + 1)
            assert client.response.raw_head == head.replace(b"Transfer-Encoding: chunked\r\n", b"")
        upstream.refuse()
        client.request("/", method="HEAD")
        await answers(client, len(heads) + 1)
        assert client.response.status == 502
        assert client.received.endswith(b"\r\n\r\n")  # even our own answer has no body
        await upstream.start()
        upstream.scripts.append(name_the_target)
        client.request("/next")
        await client.wait_for(b"GET /next")


@on_each_loop
async def test_a_large_head_of_an_answer_passes() -> None:
    fields = b"".join(b"X-%d: %b\r\n" % (number, b"y" * 90) for number in range(2000))
    raw = b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 2\r\n\r\nok"
    received, _ = await exchange([GOT_REQUEST, raw], request("/"))
    assert received == raw


# HTTP/1.0 clients, nginx by default among them.


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (OK, True),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", True),
        (CHUNKED + joined([b"o", b"k"]) + LAST_CHUNK, False),
        (UNTIL_CLOSE + b"ok", False),
    ],
    ids=["length", "no body", "chunks", "until the close"],
)
@on_each_loop
async def test_an_http_1_0_client_gets_no_chunks_and_keeps_its_connection_if_it_asks_and_can(
    raw: bytes, kept: bool
) -> None:
    async with RawUpstream([GOT_REQUEST, raw, CLOSE]) as upstream, Running(plain(upstream.url)) as proxy:
        for fields in (b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n"):
            async with await proxy.client() as client:
                client.send(b"GET / HTTP/1.0\r\n" + fields + b"\r\n")
                answer = await client.wait_response()
                assert answer.header("transfer-encoding") is None
                assert client.body == (b"" if answer.status == 304 else b"ok")
                if kept and b"keep-alive" in fields:
                    assert answer.header("connection") == "keep-alive"
                    client.send(b"GET / HTTP/1.0\r\n\r\n")
                    await client.wait_for(lambda client: len(client.responses) == 2)
                assert client.response.header("connection") == "close"
                assert await client.wait_end() is Ending.EOF


# Connections.


@on_each_loop
async def test_one_connection_carries_any_number_of_requests_whatever_they_are_answered() -> None:
    async with RawUpstream(name_the_target) as upstream:
        text = plain(upstream.url).replace("path: /*", "path: /there/*")
        async with Running(text) as proxy, await proxy.client() as client:
            for number in range(20):
                client.request(f"/there/{number}", method="POST", body=b"x" * number)
                await answers(client, 2 * number + 1)
                assert client.body == f"POST /there/{number}".encode()
                client.request("/elsewhere", "Content-Length: 0")
                await answers(client, 2 * number + 2)
                assert (client.response.status, client.body) == (404, b"no route takes this request\n")
                assert client.response.header("connection") == "keep-alive"
            client.request("/there/last", "Connection: close")
            await client.wait_end()
            assert client.response.header("connection") == "close"
            assert proxy.metric("sse_proxy_requests_total", route="_none", method="GET", code="404") == 20
        await upstream.wait_all_closed()
        assert {asked.ending for asked in upstream.connections} <= {Ending.EOF, Ending.RESET}


@on_each_loop
async def test_requests_sent_ahead_are_answered_in_their_order() -> None:
    async def late(connection: UpstreamConnection) -> None:
        asked = await connection.next_request(within=60)
        await asyncio.sleep(0.03 if asked.target.endswith("0") else 0)
        await connection.send(response("200 OK", asked.target.encode() + bytes(asked.body)))

    async with (
        RawUpstream(late) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        wanted = [f"/{number}" for number in range(50)]
        client.send(b"".join(request(target, method="POST", body=b"!") for target in wanted))
        await answers(client, 50)
        assert [answer.body.decode() for answer in client.responses] == [f"{target}!" for target in wanted]


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.abort], ids=["close", "reset"])
@on_each_loop
async def test_a_client_that_leaves_before_during_or_after_its_request_ends_the_upstream_connection(
    leave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_LOOK_AT_PEER", 3600.0)  # it is noticed without looking
    cases: list[tuple[Script, bytes, bytes]] = [
        ([GOT_REQUEST, HOLD], request("/"), b""),
        ([HOLD], request("/", "Content-Length: 9", method="POST") + b"half", b""),
        ([HOLD], CHUNKED_POST + chunk(b"half"), b""),
        ([GOT_REQUEST, CHUNKED + chunk(b"half"), HOLD], request("/"), b"half"),
    ]
    async with RawUpstream(*(script for script, _, _ in cases)) as upstream:
        async with Running(plain(upstream.url)) as proxy:
            for number, (_, raw, seen) in enumerate(cases):
                client = await proxy.client()
                client.send(raw)
                asked = await upstream.connection(number)
                await asked.wait_received(b"half" if raw.startswith(b"POST") else b"\r\n\r\n")
                if seen:
                    await client.wait_for(seen)
                if (left := leave(client)) is not None:
                    await left
                await asked.wait_closed()
                await client.close()
                await soon(lambda proxy=proxy: proxy.idle)
            gone = [{"route": "all", "method": method, "code": "499"} for method in ("GET", "POST")]
            for labels in gone:
                await soon(lambda labels=labels: proxy.metric("sse_proxy_requests_total", **labels) == 2)
        whole = [asked.requests[0].complete for asked in upstream.connections]
        assert whole == [True, False, False, True]
