"""What a client of each family reads on its wire when its answer is not whole, and who is answered early."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from sse_keepalive_proxy.stream.messages import CloseReason
from tests.support.http1 import request
from tests.support.instance import Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    LAST_CHUNK,
    RESET,
    RawUpstream,
    Script,
    Step,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop
from tests.support.sse_reference import parse

EVENT = b"data: 1\n\n"
ID_EVENT = b"id: 7\ndata: 1\n\n"
BEGUN: Script = [GOT_REQUEST, stream_head(), chunk(EVENT)]
STREAMS = b'{"messages":[{"content":"hi"}],"stream":true}'
CALL = b'{"jsonrpc":"2.0","id":%b,"method":"tools/call","params":{"id":99}}'
EARLY = "early_commit: {after: 50ms, methods: [GET, POST]}\nreconnect: off"


@dataclass(frozen=True, slots=True)
class Client:
    """A request of one family."""

    headers: tuple[str, ...] = ()
    method: str = "POST"
    body: bytes = STREAMS


OPENAI = Client(("Accept: application/json", "X-Stainless-Lang: python"))
ANTHROPIC = Client(("Accept: application/json", "anthropic-version: 2023-06-01"))
GEMINI = Client(("Accept: */*", "x-goog-api-client: google-genai-sdk/3.3.0 gl-node/v22.1.0"), body=b"{}")
GEMINI_PYTHON = Client(
    ("Accept: */*", "x-goog-api-client: google-genai-sdk/3.6.1 gl-python/3.11"), body=b"{}"
)
MCP = Client(("Accept: application/json, text/event-stream",), body=CALL % b"7")
HTTP = Client(("Accept: text/event-stream", "Cache-Control: no-store"), method="GET", body=b"")


async def asking(proxy: Instance, client: Client, version: bytes = b"1.1") -> RawClient:
    """A client that has sent its request."""
    raw = await proxy.client()
    asked = request("/events", *client.headers, method=client.method, body=client.body)
    raw.send(asked.replace(b"HTTP/1.1", b"HTTP/" + version, 1))
    return raw


async def last_event(client: RawClient) -> tuple[str, Mapping[str, object]]:
    """The last event of a body that was cut behind it: its type and its data."""
    await client.wait_end()
    assert not client.response.complete
    event = parse(client.body).events[-1]
    data: dict[str, object] = json.loads(event.data)
    return event.type, data


def api_error(code: str, message: str) -> tuple[str, Mapping[str, object]]:
    error = {"type": "api_error", "code": code, "message": message}
    rest = {"code": code, "message": message, "param": None, "sequence_number": 0}
    return "error", {"type": "error", "error": error, **rest}


def google(code: int, status: str, message: str) -> tuple[str, Mapping[str, object]]:
    return "message", {"error": {"code": code, "message": message, "status": status}}


def json_rpc(request_id: object, message: str) -> tuple[str, Mapping[str, object]]:
    return "message", {"jsonrpc": "2.0", "id": request_id, "error": {"code": -32000, "message": message}}


def proxy_error(status: int, message: str) -> tuple[str, Mapping[str, object]]:
    return "proxy_error", {"type": "proxy_error", "status": status, "message": message}


CLIENTS = {
    "openai": OPENAI,
    "anthropic": ANTHROPIC,
    "gemini": GEMINI,
    "gemini-python": GEMINI_PYTHON,
    "mcp": MCP,
    "http": HTTP,
}
GOES = "the proxy is shutting down"
TOLD_OF_A_DRAIN = {
    "openai": api_error("drain", GOES),
    "anthropic": api_error("drain", GOES),
    "gemini": google(503, "UNAVAILABLE", GOES),
    "gemini-python": google(503, "UNAVAILABLE", GOES),
    "mcp": json_rpc(7, GOES),
    "http": proxy_error(503, GOES),
}
BROKE = "upstream's connection broke before its answer was complete"
TOLD_OF_A_RESET = {
    "openai": api_error("upstream_reset", BROKE),
    "anthropic": api_error("upstream_reset", BROKE),
    "gemini": google(502, "UNAVAILABLE", BROKE),
    "gemini-python": google(502, "UNAVAILABLE", BROKE),
    "mcp": json_rpc(7, BROKE),
}


@on_each_loop
@pytest.mark.parametrize("family", list(CLIENTS))
async def test_an_end_by_the_clock_is_told_in_the_words_of_the_family_and_cut(family: str) -> None:
    async with (
        RawUpstream(BEGUN) as upstream,
        Instance(config(upstream)) as proxy,
        await asking(proxy, CLIENTS[family]) as client,
    ):
        await client.wait_for(EVENT)
        for stream in proxy.server.streams:
            stream.leave(asyncio.get_running_loop().time(), CloseReason.DRAIN)
        assert await last_event(client) == TOLD_OF_A_DRAIN[family]
        assert proxy.metric("streams_opened_total", family=family) == 1


@on_each_loop
@pytest.mark.parametrize("half", [b"", b"data: ha"], ids=["between blocks", "in a block"])
@pytest.mark.parametrize("family", list(TOLD_OF_A_RESET))
async def test_a_broken_upstream_is_told_to_whoever_has_words_for_it(family: str, half: bytes) -> None:
    steps: list[Step] = [*BEGUN, *([chunk(half)] if half else []), RESET]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream)) as proxy,
        await asking(proxy, CLIENTS[family]) as client,
    ):
        assert await last_event(client) == TOLD_OF_A_RESET[family]
        await proxy.until_closed("upstream_reset")


@on_each_loop
async def test_others_see_the_cut_of_upstream_and_nothing_of_ours() -> None:
    async with (
        RawUpstream([*BEGUN, RESET]) as upstream,
        Instance(config(upstream)) as proxy,
        await asking(proxy, HTTP) as client,
    ):
        assert await last_event(client) == ("message", 1)


@on_each_loop
@pytest.mark.parametrize("said", [b"data: ha", b"Hello, "], ids=["inside a block", "no event stream"])
async def test_where_no_frame_can_stand_the_cut_says_it_alone(said: bytes) -> None:
    async with (
        RawUpstream([GOT_REQUEST, stream_head(), chunk(said), go := asyncio.Event(), RESET]) as upstream,
        Instance(config(upstream)) as proxy,
        await asking(proxy, OPENAI) as client,
    ):
        await client.wait_for(said)
        go.set()
        await client.wait_end()
        assert not client.response.complete
        assert client.body.endswith(said)


@on_each_loop
async def test_the_frame_reaches_a_client_of_http_1_0_before_the_reset() -> None:
    async with (
        RawUpstream([*BEGUN, RESET]) as upstream,
        Instance(config(upstream)) as proxy,
        await asking(proxy, OPENAI, b"1.0") as client,
    ):
        await client.wait_end()
        assert parse(client.body).events[-1].type == "error"


# The id of a JSON-RPC request.


@on_each_loop
@pytest.mark.parametrize("request_id", [0, -7, "a", '\u00e9 " \\ id'])
async def test_the_error_for_mcp_has_the_id_of_the_request(request_id: object) -> None:
    body = CALL % json.dumps(request_id).encode()
    async with (
        RawUpstream([*BEGUN, RESET]) as upstream,
        Instance(config(upstream)) as proxy,
        await asking(proxy, Client(MCP.headers, body=body)) as client,
    ):
        assert await last_event(client) == json_rpc(request_id, BROKE)
        assert (await (await upstream.connection()).request()).body == body


@on_each_loop
@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","method":"notifications/x"}',
        b'{"jsonrpc":"2.0","id":7,"result":{}}',
        b"[" + CALL % b"7" + b"]",
        CALL % b"null",
        b"no JSON",
    ],
    ids=["a notification", "an answer", "a batch", "null", "no JSON"],
)
async def test_what_has_no_id_is_only_cut(body: bytes) -> None:
    async with (
        RawUpstream([*BEGUN, RESET]) as upstream,
        Instance(config(upstream)) as proxy,
        await asking(proxy, Client(MCP.headers, body=body)) as client,
    ):
        assert await last_event(client) == ("message", 1)


@on_each_loop
async def test_an_mcp_client_that_can_open_its_stream_again_sees_only_the_cut_of_upstream() -> None:
    async with (
        RawUpstream([GOT_REQUEST, stream_head(), chunk(ID_EVENT), RESET]) as upstream,
        Instance(config(upstream)) as proxy,
        await asking(proxy, MCP) as client,
    ):
        assert await last_event(client) == ("message", 1)


# After an early commit.

REFUSAL = response("401 Unauthorized", b'{"error":"no"}')
LATE: Script = [GOT_REQUEST, 0.3, REFUSAL]
SAYS_401 = "upstream answered with status 401"
EARLY_AND_REFUSED = {
    "openai": (OPENAI, api_error("401", SAYS_401)),
    "anthropic": (ANTHROPIC, api_error("401", SAYS_401)),
    "gemini": (Client((GEMINI.headers[1],)), google(401, "UNAUTHENTICATED", SAYS_401)),
    "http": (HTTP, proxy_error(401, SAYS_401)),
}


@on_each_loop
@pytest.mark.parametrize("family", list(EARLY_AND_REFUSED))
async def test_a_late_refusal_is_told_in_words_of_the_family_and_the_next_request_waits(
    family: str,
) -> None:
    sent, told = EARLY_AND_REFUSED[family]
    refuses: Script = [GOT_REQUEST, go := asyncio.Event(), REFUSAL]
    async with RawUpstream(refuses, LATE) as upstream, Instance(config(upstream, EARLY)) as proxy:
        async with await asking(proxy, sent) as client:
            await client.wait_head()
            go.set()
            assert await last_event(client) == told
            assert client.response.status == 200
        await proxy.until_closed("unauthorized")
        async with await asking(proxy, sent) as again:
            await again.wait_response()
            assert (again.response.status, again.body) == (401, b'{"error":"no"}')


@on_each_loop
async def test_an_answer_that_is_no_stream_is_no_success_to_a_language_model_client() -> None:
    answer = response("200 OK", b"{}", "content-type: application/json")
    async with (
        RawUpstream([GOT_REQUEST, go := asyncio.Event(), answer]) as upstream,
        Instance(config(upstream, EARLY)) as proxy,
        await asking(proxy, OPENAI) as client,
    ):
        await client.wait_head()
        go.set()
        words = "upstream answered with status 200, but not with an event stream"
        assert await last_event(client) == api_error("502", words)


STREAM = ("Accept: text/event-stream",)
CONVERSATION = b'{"messages":[%b{}],"stream":true}' % (b'{"content":[{"text":"hello"}]},' * 4000)
LONG = b'{"messages":[{"content":"' + b"x" * 300_000 + b'"}],"stream":true,"tools":[{"stream":false}]}'


@on_each_loop
@pytest.mark.parametrize(
    ("sent", "early"),
    [
        (OPENAI, True),
        (Client(body=LONG), True),
        (Client(("Accept: application/json",), body=b'{"stream":false}'), False),
        (Client(("Accept: text/event-stream",), body=b'{"stream":false}'), False),
        (Client(("Accept: application/json",), body=b'{"stream":true,"stream":false}'), False),
        (Client(("Accept: application/json",), body=b'{"messages":[{"stream":true}]}'), False),
        (Client(("Accept: application/json",), body=b"stream=true"), False),
        (Client(body=CONVERSATION), True),
        (Client(STREAM, body=b'{"stream":{}}'), False),
        (Client(STREAM, body=b'{"stream":' + b" " * 1100 + b"false}"), False),
        (Client(STREAM, body=b'{"\\u0073tream":false}'), False),
        (Client(STREAM, body=b"{" + b'"a":1,' * 1200 + b'"stream":false}'), False),
        (Client(STREAM, body=b'{"a":[' + b"{}," * 30_000 + b'{}],"stream":false}'), False),
        (Client(STREAM, body='{"stream":false}'.encode("utf-16")), False),
        (Client(STREAM, body='{"stream":false}'.encode("utf-16-le")), False),
        (Client(STREAM, body='{"stream":false}'.encode("utf-8-sig")), False),
        (Client((*STREAM, "Content-Encoding: gzip"), body=gzip.compress(b'{"stream":false}')), False),
        (Client((*STREAM, "Content-Encoding: identity")), True),
        (Client(("Accept: application/json, text/event-stream, */*",), body=CALL % b"7"), False),
        (Client(STREAM, body=b"{}"), True),
        (Client(("Accept: text/html, text/event-stream;q=0.9",), body=b"q=1"), True),
        (Client(("Accept: text/event-stream",), body=b""), True),
        (Client(("Accept: */*",), body=b""), False),
        (GEMINI, False),
        (MCP, False),
        (Client(("Mcp-Session-Id: 1", "Accept: text/event-stream"), method="GET", body=b""), False),
        (HTTP, True),
        (Client(("Accept: */*",), method="GET", body=b""), True),
    ],
    ids=[
        "stream true", "stream true behind much else", "stream false", "stream false beats Accept",
        "the last of two flags counts", "a flag further inside", "no JSON",
        "stream true behind a conversation", "a nested flag", "a flag behind many blanks", "an escaped name",
        "too many members", "too much nested", "UTF-16", "UTF-16 without a mark", "a byte order mark", "gzip",
        "identity", "MCP with another Accept", "Accept names event streams",
        "Accept names event streams among others", "a POST without a body, by Accept",
        "a POST without a body", "Gemini", "MCP", "MCP by its session", "a GET", "any GET",
    ],
)  # fmt: skip
async def test_a_request_is_answered_early_only_where_it_asks_for_a_stream(sent: Client, early: bool) -> None:
    script: Script = [
        GOT_REQUEST,
        go := asyncio.Event(),
        stream_head("x-real: yes"),
        chunk(EVENT),
        LAST_CHUNK,
    ]
    async with (
        RawUpstream(script) as upstream,
        Instance(config(upstream, EARLY)) as proxy,
        await asking(proxy, sent) as client,
    ):
        asked = await (await upstream.connection()).request()
        assert asked.body == sent.body  # unchanged, and not delayed
        if early:
            await client.wait_head()
        else:
            await asyncio.sleep(0.3)
            assert client.received == b""
        go.set()
        await client.wait_response()
        assert (client.response.header("x-real") is None) is early
        assert client.body.endswith(EVENT)
