"""Marked credentials enter the real process everywhere and leave it only towards upstream
(behaviour.md#credentials-stay-secret).

Every way a request or a stream can end is driven at log level debug; then every byte of the logs, the
metrics, the pages and the proxy's own answers is searched.
"""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.parse
from functools import partial
from pathlib import Path

import pytest

from tests.support.instance import EVENT_SOURCE
from tests.support.programs import free_port
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    LAST_CHUNK,
    RawUpstream,
    UpstreamConnection,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_loop, soon

MARK = "s3cr3t"
BASIC = base64.b64encode(f"user:{MARK}".encode()).decode()  # padded, so that it ends in =
ENCODED = "%73%33c%723t"
TOKEN = f"access_token={MARK}"
HEADERS = [
    f"Authorization: Bearer {MARK}",
    f"Proxy-Authorization: Basic {BASIC}",
    f"Cookie: session={MARK}; {MARK}=1",
    f"X-Api-Key: {MARK}",
    f"X-{MARK}: 1",
    f"Last-Event-ID: {MARK}",
    f"Referer: https://app.example/?token={MARK}",
    f"User-Agent: {MARK}",
    f"X-Forwarded-For: {MARK}, 203.0.113.7",
    f"Forwarded: for={MARK}",
]
QUERIES = [
    TOKEN,
    MARK,
    BASIC,
    f"={MARK}",
    f"{MARK}=1",
    f"user:{MARK}@host=1",
    f"access_token={ENCODED}",
    ENCODED,
    f"access_token%3D{MARK}",
    f"{TOKEN}&chat=2&{TOKEN}",
    f"a=1?{TOKEN}",
    f"a=1;{TOKEN}",
    f"%61ccess_token={urllib.parse.quote(ENCODED)}",
]
CLOSED = [
    ("again", "unauthorized"),
    ("early", "unauthorized"),
    ("events", "client_gone"),
    ("events", "upstream_end"),
    ("events", "upstream_reset"),
    ("stalling", "stalled"),
    ("small", "event_too_large"),
    ("slow", "client_stalled"),
]

CONFIG = """\
logging: {{level: debug, format: {form}}}
limits: {{max_request_body: 4KiB, max_request_header: 8KiB}}
drain: {{timeout: 10s, spread: 10ms}}
upstreams:
  up: {{url: '{up}'}}
  dead: {{url: 'http://127.0.0.1:{dead}'}}
routes:
  - {{name: events, match: {{path: /events}}, upstream: up, stream: {{head: refuse, reconnect: off}}}}
  - {{name: again, match: {{path: /again}}, upstream: up, stream: {{reconnect: {{delay: 1ms}}}}}}
  - {{name: early, match: {{path: /early}}, upstream: up, stream: {{early_commit: {{after: 50ms}}}}}}
  - name: stalling
    match: {{path: /stalling}}
    upstream: up
    stream: {{stall: {{after: 50ms, sign_of_life: events, action: notify, close_after: 50ms}}}}
  - {{name: small, match: {{path: /small}}, upstream: up, stream: {{max_event: 1KiB}}}}
  - {{name: slow, match: {{path: /slow}}, upstream: up, stream: {{write_timeout: 300ms}}}}
  - {{name: late, match: {{path: /late}}, upstream: up, stream: {{open_timeout: 100ms, reconnect: off}}}}
  - {{name: dead, match: {{path: /dead}}, upstream: dead}}
  - {{name: plain, match: {{path: /plain/*}}, upstream: up}}
"""


async def upstream_of_secrets(connection: UpstreamConnection, answers: asyncio.Event) -> None:
    """Does what the query's `do` says, or what the path is there for. Whatever it says is secret, too.
    `answers`: when `/early` does.
    """
    request = await connection.next_request()
    path, _, query = request.target.partition("?")
    refused = response("401 Unauthorized", f"no such token: {MARK}".encode(), f"Set-Cookie: id={MARK}")
    cookie = f"Set-Cookie: id={MARK}; HttpOnly"
    events = chunk(f"data: {MARK}\n\n: {MARK}\n\n".encode())
    match urllib.parse.parse_qs(query).get("do", [path])[0]:
        case "/late":
            pass
        case "401":
            await connection.send(refused)
        case "/again" if request.header("Last-Event-ID") == MARK:
            events = chunk(f"id: {MARK}2\ndata: {MARK}\n\ndata: {MARK} half".encode())
            await connection.send(stream_head(cookie) + events)
            connection.reset()
        case "/again":
            assert request.header("Last-Event-ID") == f"{MARK}2"
            await connection.send(refused)
        case "/early":
            await connection.play([answers, refused])
        case "garbage":
            await connection.send(f"SSH {MARK}\r\n\r\n".encode())
        case "bad-head":
            await connection.send(f"HTTP/1.1 {MARK} {MARK}\r\n{MARK}: {MARK}\r\n\r\n".encode())
        case "reset":
            connection.reset()
        case "short":
            await connection.send(f"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{MARK}".encode())
            connection.close()
        case "gzip":
            await connection.send(stream_head(cookie, "Content-Encoding: gzip") + events + LAST_CHUNK)
        case "switch":
            fields = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {MARK}"
            await connection.send(f"HTTP/1.1 101 {MARK}\r\n{fields}\r\n\r\n".encode())
        case "/slow":
            await connection.send(stream_head(cookie) + chunk(f"data: {MARK * 100_000}\n\n".encode()) * 20)
        case "/small":
            await connection.send(stream_head(cookie) + chunk(b"data: " + MARK.encode() * 1000))
        case "end":
            await connection.send(stream_head(cookie) + events + LAST_CHUNK)
        case "break":
            await connection.send(stream_head(cookie) + events + f"{MARK}\r\n".encode())  # no chunk size
        case "/events" | "/stalling":
            await connection.send(stream_head(cookie) + events)
        case _:
            await connection.send(response("200 OK", MARK.encode(), cookie))


class Story:
    """A proxy to drive, and in `told` all that it answered in its own name. `answers`: see upstream."""

    def __init__(self, proxy: ProxyProcess, answers: asyncio.Event) -> None:
        self.proxy = proxy
        self.told = bytearray()
        self.answers = answers

    async def ask(
        self, target: str, *headers: str, method: str = "GET", body: bytes = b"", **how: int
    ) -> RawClient:
        """A client that has asked with every credential there is."""
        client = await RawClient.connect(self.proxy.url, **how)
        client.request(target, EVENT_SOURCE, *HEADERS, *headers, method=method, body=body)
        return client

    async def passed(
        self, status: int, target: str, *headers: str, method: str = "GET", body: bytes = b""
    ) -> None:
        """Ask; the whole answer is upstream's."""
        async with await self.ask(target, *headers, method=method, body=body) as client:
            await client.wait_response()
            assert client.response.status == status, target

    async def refused(self, status: int, target: str, *, method: str = "GET", body: bytes = b"") -> None:
        """Ask; the answer is the proxy's own."""
        async with await self.ask(target, method=method, body=body) as client:
            await self.own(client, status)

    async def raw(self, status: int, data: str, *, port: int | None = None) -> None:
        """Send what may be no request; the answer is the proxy's own."""
        async with await RawClient.connect(port=port or self.proxy.port) as client:
            client.send(data.encode())
            await self.own(client, status)

    async def closed(self, route: str, reason: str, count: int = 1) -> None:
        """Wait until so many streams of a route have ended for this reason."""
        name = "sse_proxy_streams_closed_total"
        await soon(
            lambda: self.proxy.metric(name, route=route, reason=reason) >= count,
            lambda: f"{route} {reason}: {self.proxy.metric(name, route=route, reason=reason)}",
        )

    async def own(self, client: RawClient, status: int) -> None:
        """The answer to this client is the proxy's own."""
        await client.wait_response()
        assert client.response.status == status, client.received
        self.told += client.received


async def plain_requests(story: Story) -> None:
    for query in QUERIES:
        await story.passed(200, f"/plain/?{query}")
    await story.passed(200, "/plain/", method="POST", body=MARK.encode() * 100)
    await story.passed(401, f"/plain/;session={MARK}/y?do=401")
    await story.passed(401, f"/plain/%3F{TOKEN}&b={MARK}?do=401")
    await story.passed(401, f"/events?do=401&{TOKEN}")
    async with await story.ask(f"/plain/?do=short&{TOKEN}") as client:
        await client.wait_end()
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Protocol: {MARK}"]
    async with await story.ask(f"/plain/?do=switch&{TOKEN}", *upgrade) as client:
        await client.wait_for(b"HTTP/1.1 101")
        client.send(MARK.encode())


async def refusals(story: Story) -> None:
    for query in QUERIES:
        await story.refused(404, f"/nothing?{query}")
        await story.refused(502, f"/dead?{query}")
        await story.refused(405, f"/events?{query}", method="HEAD")
    await story.refused(504, f"/late?{TOKEN}")
    for do in ("garbage", "bad-head", "reset", "switch"):
        for path in ("/plain/", "/events"):
            await story.refused(502, f"{path}?do={do}&{TOKEN}")
    await story.refused(413, f"/plain/?{MARK}", method="POST", body=MARK.encode() * 1000)


async def requests_that_are_none(story: Story) -> None:
    rest = "Host: x\r\n" + "\r\n".join(HEADERS) + "\r\n"
    get = f"GET /events?{TOKEN} HTTP/1.1\r\n"
    post = f"POST /plain/?{TOKEN} HTTP/1.1\r\n{rest}"
    await story.raw(400, f"{get}{rest.replace('Host: x', f'Host: {MARK} {MARK}')}\r\n")
    await story.raw(400, f"{get}{rest}{MARK} : {MARK}\r\n\r\n")
    await story.raw(400, f"{get}{rest}A: {MARK}\x01\r\n\r\n")
    await story.raw(400, f"{MARK} /events?{TOKEN} HTTP/1.1\r\n{rest}\r\n")
    await story.raw(400, f"GET /events?{TOKEN}#{MARK} HTTP/1.1\r\n{rest}\r\n")
    await story.raw(400, f"GET /events?{TOKEN} HTTP/{MARK}\r\n{rest}\r\n")
    await story.raw(400, f"{post}Content-Length: {MARK}\r\n\r\n")
    await story.raw(400, f"{post}Transfer-Encoding: chunked\r\n\r\n{MARK}\r\n{MARK}")
    await story.raw(501, f"{post}Transfer-Encoding: {MARK}, chunked\r\n\r\n")
    await story.raw(431, f"{get}{rest}A: {MARK * 2000}\r\n\r\n")
    await story.raw(431, f"GET /{MARK * 2000} HTTP/1.1\r\n{rest}\r\n")


async def streams(story: Story) -> None:
    await story.passed(200, f"/events?{TOKEN}&do=end")
    await story.passed(200, f"/events?{TOKEN}&do=end", method="POST", body=MARK.encode())
    await story.passed(200, f"/events?{TOKEN}&do=end", f"Host: {MARK}.trycloudflare.com")
    await story.passed(200, f"/events?{TOKEN}&do=gzip")
    await story.passed(200, f"/small?{TOKEN}")
    await story.passed(200, f"/again?{TOKEN}")
    async with await story.ask(f"/early?{TOKEN}") as client:
        await client.wait_head()
        story.answers.set()
        await story.own(client, 200)  # told in band, by us
    await story.passed(401, f"/early?{TOKEN}")
    await story.passed(200, f"/stalling?{TOKEN}")
    async with await story.ask(f"/events?{TOKEN}&do=break") as client:
        await client.wait_end()
    for query in QUERIES:
        async with await story.ask(f"/events?{query}") as client:
            await client.wait_for(MARK.encode())
    async with await story.ask(f"/slow?{TOKEN}", receive_buffer=4096) as client:
        client.pause()
        await story.closed("slow", "client_stalled")
    await story.closed("events", "client_gone", len(QUERIES))
    for route, reason in CLOSED:
        await story.closed(route, reason)


async def pages(story: Story) -> dict[str, str]:
    """Everything the admin listener shows while a stream is open."""
    proxy = story.proxy
    async with await story.ask(f"/events?{TOKEN}") as client:
        await client.wait_for(MARK.encode())
        shown = {path: proxy.admin(f"{path}?{TOKEN}") for path in ("/metrics", "/", "/streams", "/config")}
        assert {status for status, _ in shown.values()} == {200}
        assert [stream["client"] for stream in json.loads(shown["/streams"][1])["streams"]] == ["203.0.113.7"]
        rest = "Host: x\r\n" + "\r\n".join([*HEADERS, "Connection: close"]) + "\r\n\r\n"
        for status, line in (
            (200, f"GET /livez?{TOKEN}"),
            (404, f"GET /{MARK}"),
            (405, f"POST /livez?{TOKEN}"),
        ):
            await story.raw(status, f"{line} HTTP/1.1\r\n{rest}", port=proxy.admin_port)
        async with await RawClient.connect(port=proxy.admin_port) as stranger:
            stranger.send(f"GET / HTTP/1.1\r\n{MARK} {MARK}\r\n\r\n".encode())
            await stranger.wait_end()  # the answer may quote this, to nobody but who sent it
        assert proxy.stop() == 0
    return {path: body for path, (_, body) in shown.items()}


def leaks(text: str) -> list[str]:
    """The lines in which a mark can be read, however often it was percent-encoded."""
    found = []
    for line in text.splitlines():
        form, decoded = line, urllib.parse.unquote(line)
        while decoded != form:
            form, decoded = decoded, urllib.parse.unquote(decoded)
        if any(mark.lower() in seen.lower() for mark in (MARK, BASIC.rstrip("=")) for seen in (line, form)):
            found.append(line)
    return found


def test_a_leak_would_be_found() -> None:
    for text in (MARK, f"x\n{ENCODED}\n", urllib.parse.quote(ENCODED), BASIC, MARK.upper()):
        assert len(leaks(text)) == 1
    assert leaks("access_token=***") == []


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_credential_reaches_a_log_a_page_a_metric_or_an_answer_of_the_proxy(
    form: str, tmp_path: Path
) -> None:
    searched: dict[str, str] = {}

    async def drive() -> None:
        answers = asyncio.Event()
        async with RawUpstream(partial(upstream_of_secrets, answers=answers)) as upstream:
            config = CONFIG.format(form=form, up=upstream.url, dead=free_port())
            with running_proxy(tmp_path, config=config) as proxy:
                story = Story(proxy, answers)
                await plain_requests(story)
                await refusals(story)
                await requests_that_are_none(story)
                await streams(story)
                searched.update(await pages(story), log=proxy.log, answers=story.told.decode("latin-1"))

    on_loop("asyncio", drive(), within=180)
    for where, text in searched.items():
        assert leaks(text) == [], where
    lines = searched["log"].splitlines()
    # It was all there to be told: what was left out are the secrets, not the lines.
    for word in (
        "request",
        "stream open",
        "stream closed",
        "upstream gave no answer",
        "an answer broke off",
        "upstream lost",
    ):
        assert any(word in line for line in lines), word
    for word in ("upstream stalled", "Quick Tunnel", "encodes its event stream", "access_token=***", "drain"):
        assert any(word in line for line in lines), word
    assert sum("/plain/?access_token=***" in line for line in lines) >= 3
    assert all(line.isprintable() for line in lines)
    if form == "json":
        assert all(isinstance(json.loads(line), dict) for line in lines)
