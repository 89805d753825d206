"""What each family of clients gets, with the requests of real libraries (behaviour.md#client-families)."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

import pytest

from sse_keepalive_proxy.observe.registry import snapshot
from tests.support.http1 import LAST_CHUNK, chunk, stream_head
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, RESET, RawUpstream, Step
from tests.support.running import on_each_loop

pytestmark = pytest.mark.usefixtures("on_both")
SILENT: list[Step] = [GOT_REQUEST, stream_head()]
CONFIRM = rb"event: connection_confirmed\ndata: [^\n]+\n\n"
STREAM = "Accept: text/event-stream"
BOTH = "Accept: application/json, text/event-stream"


@dataclass(frozen=True)
class Client:
    """A library: its request, the family it is taken for, and what it gets. `ping` empty: none."""

    family: str
    headers: tuple[str, ...]
    confirm: bytes
    ping: bytes
    method: str = "GET"
    body: bytes = b""

    async def ask(self, proxy: Instance, target: str = "/events") -> RawClient:
        client = await proxy.client()
        client.request(target, *self.headers, method=self.method, body=self.body)
        return client


def post(family: str, confirm: bytes, ping: bytes, *headers: str) -> Client:
    return Client(family, headers, confirm, ping, "POST", b'{"stream": true}')


LINES = (rb":ok\n", rb":ping\n")
BLOCKS = (rb":ok\n\n", rb":ping\n\n")
CLIENTS = {
    "a browser": Client("browser", (EVENT_SOURCE, "Sec-Fetch-Mode: cors"), CONFIRM, rb":ping\n"),
    "httpx-sse": Client("http", (STREAM, "Cache-Control: no-store"), *LINES),
    "sseclient-py": Client("http", (STREAM,), *LINES),
    "curl": Client("http", ("Accept: */*",), *BLOCKS),
    "MCP, listening": Client("mcp", (STREAM, "Mcp-Session-Id: s"), *LINES),
    "MCP, calling": post("mcp", *LINES, BOTH),
    "openai-python": post("openai", *LINES, "Accept: application/json", "X-Stainless-Lang: python"),
    "mistralai": post("openai", *LINES, STREAM),
    "a reader by hand": post("openai", *BLOCKS, "Accept: */*"),
    "anthropic-node": post("anthropic", *LINES, "Accept: application/json", "Anthropic-Version: 2023-06-01"),
    "google-genai for JavaScript": post(
        "gemini", *BLOCKS, "X-Goog-Api-Client: google-genai-sdk/3.3.0 gl-node/v22.23.3"
    ),
    "google-genai for Python": post(
        "gemini-python", b"", b"", "X-Goog-Api-Client: google-genai-sdk/3.6.1 gl-python/3.11.7"
    ),
}
every_client = pytest.mark.parametrize("library", CLIENTS.values(), ids=CLIENTS)


@every_client
@on_each_loop
async def test_a_client_gets_the_frames_of_its_family_and_is_shown_with_it(library: Client) -> None:
    steps = [*SILENT, go := asyncio.Event(), chunk(b"data: 1\n\n"), LAST_CHUNK]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, "keepalive: {interval: 50ms}\nstall: off")) as proxy,
        await library.ask(proxy) as client,
    ):
        await proxy.until(lambda: proxy.metric("streams_opened_total", family=library.family) == 1)
        if library.ping:
            await client.wait_for(b"\n:ping\n")
        else:
            await asyncio.sleep(0.2)  # time for a ping, which does not come
        shown = [snapshot(stream, 0.0)["family"] for stream in proxy.server.streams]
        assert shown == [library.family]
        go.set()
        await client.wait_response()
        pings = b"(%b)+" % library.ping if library.ping else b""
        assert re.fullmatch(library.confirm + pings + rb"data: 1\n\n", client.body), client.body
        sent = sum(proxy.metric("pings_sent_total", form=form) for form in ("comment", "event"))
        assert (sent > 0) == bool(library.ping)


@every_client
@on_each_loop
async def test_a_finite_stream_with_ids_ends_for_whoever_does_not_come_back(library: Client) -> None:
    steps = [*SILENT, chunk(b"id: 1\ndata: 1\n\n"), chunk(b"id: 2\ndata: 2\n\n"), LAST_CHUNK]
    async with (
        RawUpstream(steps, SILENT) as upstream,
        Instance(config(upstream, "reconnect: {delay: 10ms}")) as proxy,
        await library.ask(proxy) as client,
    ):
        if library.family == "browser":
            await client.wait_for(b"stream_recovered")
            assert len(upstream.connections) == 2
        else:
            await client.wait_response()
            assert re.fullmatch(library.confirm + rb"id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n", client.body)
            assert len(upstream.connections) == 1
            await proxy.until_closed("upstream_end")


@pytest.mark.parametrize(
    ("name", "notice"),
    [
        ("a browser", rb"event: stream_recovered\ndata: [^\n]+\n\n"),
        ("httpx-sse", rb":stream_recovered [^\n]+\n"),
        ("curl", rb":stream_recovered [^\n]+\n\n"),
        ("MCP, listening", rb":stream_recovered [^\n]+\n"),
    ],
)
@on_each_loop
async def test_where_always_is_chosen_a_gap_is_announced_in_the_form_of_the_family(
    name: str, notice: bytes
) -> None:
    again = [*SILENT, chunk(b"data: 2\n\n")]
    async with (
        RawUpstream([*SILENT, chunk(b"data: 1\n\n"), RESET], again) as upstream,
        Instance(config(upstream, "reconnect: {when: always, delay: 10ms}")) as proxy,
        await CLIENTS[name].ask(proxy) as client,
    ):
        await client.wait_for(b"data: 2\n\n")
        shape = CLIENTS[name].confirm + rb"data: 1\n\n" + notice + rb"data: 2\n\n"
        assert re.fullmatch(shape, client.body), client.body


@on_each_loop
async def test_a_route_can_name_the_family_of_all_its_clients() -> None:
    async with (
        RawUpstream([*SILENT, chunk(b"data: 1\n\n"), LAST_CHUNK]) as upstream,
        Instance(config(upstream, "client: gemini-python")) as proxy,
    ):
        for name in ("a browser", "curl", "openai-python"):
            async with await CLIENTS[name].ask(proxy) as client:
                await client.wait_response()
                assert client.body == b"data: 1\n\n"
        assert proxy.metric("streams_opened_total", family="gemini-python") == 3


@on_each_loop
async def test_a_form_that_the_route_names_is_for_every_family() -> None:
    keys = "confirm: {form: event}\nkeepalive: {interval: 50ms, form: event, terminator: blank}"
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream, keys)) as proxy:
        for library in CLIENTS.values():
            async with await library.ask(proxy) as client:
                await client.wait_for(lambda client: len(client.events) >= 2)
                assert [event.type for event in client.events][:2] == ["connection_confirmed", "ping"]


@on_each_loop
async def test_a_get_that_is_called_a_browsers_is_repeated_and_a_post_is_not() -> None:
    section = "client: browser\nreconnect: {when: always, delay: 10ms}"
    async with (
        RawUpstream([GOT_REQUEST, RESET], SILENT) as upstream,
        Instance(config(upstream, section)) as proxy,
    ):
        async with await CLIENTS["openai-python"].ask(proxy) as client:
            await client.wait_response()
            assert client.response.status == 502
            assert len(upstream.connections) == 1
        async with await CLIENTS["curl"].ask(proxy) as client:
            await client.wait_for(b"connection_confirmed")


@pytest.mark.parametrize("name", CLIENTS)
@on_each_loop
async def test_after_a_fault_a_stream_is_resumed_where_the_protocol_has_ids(name: str) -> None:
    again = [*SILENT, chunk(b"id: 2\ndata: 2\n\n")]
    async with (
        RawUpstream([*SILENT, chunk(b"id: 1\ndata: 1\n\n"), RESET], again) as upstream,
        Instance(config(upstream, "reconnect: {delay: 10ms}")) as proxy,
        await CLIENTS[name].ask(proxy) as client,
    ):
        if name in ("a browser", "MCP, listening"):
            await client.wait_for(b"data: 2\n\n")
            assert (await (await upstream.connection(1)).request()).header("Last-Event-ID") == "1"
        else:
            await client.wait_end()
            assert not client.response.complete
            assert len(upstream.connections) == 1


@on_each_loop
async def test_event_pings_come_beside_comments_of_upstream_and_a_browser_is_told_when_to_come_back() -> None:
    keys = """
    keepalive: {interval: 300ms, form: event, padding: 200B}
    reconnect: {client_retry: 3s}
    """
    beats: list[Step] = [step for _ in range(40) for step in (0.05, chunk(b": beat\n\n"))]
    async with (
        RawUpstream([*SILENT, *beats]) as upstream,
        Instance(config(upstream, keys)) as proxy,
        await CLIENTS["a browser"].ask(proxy) as client,
    ):
        await client.wait_for(lambda client: len(client.events) >= 3)
        assert [event.type for event in client.events][:3] == ["connection_confirmed", "ping", "ping"]
        assert client.stream.reconnection_time == 3000
        assert client.body.count(b"retry:") == 1
        ping = re.search(rb"event: ping\ndata: [^\n]+\n(:[^\n]*\n)+\n", client.body)
        assert ping is not None
        assert len(ping[0]) == 200


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("openai-python", b"data: [DONE]\n\n"),
        ("openai-python", b'event: response.completed\ndata: {"type":"response.completed"}\n\n'),
        ("anthropic-node", b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
    ],
)
@on_each_loop
async def test_a_finished_stream_that_upstream_leaves_open_gets_no_ping_and_ends_whole(
    name: str, last: bytes
) -> None:
    keys = "keepalive: {interval: 100ms}\nstall: {after: 1h, close_after: 700ms}"
    beats: list[Step] = [step for _ in range(40) for step in (0.05, chunk(b": beat\n\n"))]
    async with (
        RawUpstream([*SILENT, go := asyncio.Event(), chunk(last), *beats]) as upstream,
        Instance(config(upstream, keys)) as proxy,
        await CLIENTS[name].ask(proxy) as client,
    ):
        await client.wait_for(b":ping\n")
        go.set()
        await client.wait_for(last)
        await proxy.until(lambda: proxy.metric("upstream_finished_streams") == 1)
        assert [snapshot(stream, 0.0)["finished"] for stream in proxy.server.streams] == [True]
        await client.wait_response()
        before, _, behind = client.body.partition(last)
        assert b":ping\n" in before
        assert set(behind.splitlines()) == {b": beat", b""}
        await proxy.until_closed("stalled")
        assert proxy.metric("upstream_finished_streams") == 0
        assert proxy.metric("upstream_stalls_total") == 0


@on_each_loop
async def test_an_event_after_the_last_one_makes_it_an_ordinary_stream_again() -> None:
    steps = [*SILENT, chunk(b"data: [DONE]\n\n"), 0.3, chunk(b"data: more\n\n")]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, "keepalive: {interval: 100ms}\nstall: {close_after: 1h}")) as proxy,
        await CLIENTS["openai-python"].ask(proxy) as client,
    ):
        await client.wait_for(b"more\n\n:ping\n")
        assert re.fullmatch(rb":ok\ndata: \[DONE\]\n\ndata: more\n\n(:ping\n)+", client.body), client.body
        assert proxy.metric("upstream_finished_streams") == 0
