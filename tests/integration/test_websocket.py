"""WebSockets: after upstream's 101 two connections are one, byte for byte, until either side ends it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sse_keepalive_proxy.gateway import websocket
from sse_keepalive_proxy.net.tcp import untaken
from tests.support.http1 import request, response, stream_head
from tests.support.instance import Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import CLOSE, GOT_REQUEST, HOLD, RESET, RawUpstream, Step, UpstreamConnection
from tests.support.running import Running, client_context, on_each_loop, plain, soon
from tests.support.sockets import Ending

pytestmark = pytest.mark.usefixtures("on_both")
KEY = ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
UPGRADE = ["Connection: keep-alive, Upgrade", "Upgrade: WebSocket", *KEY, "Sec-WebSocket-Protocol: chat"]
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"upgrade: websocket\r\n"
    b"connection: upgrade\r\n"
    b"sec-websocket-accept: s3pPLBMiTxaQ9kYGzzhZRbK+xOo=\r\n"
    b"sec-websocket-protocol: chat\r\n\r\n"
)
HELLO = b"\x81\x05hello"  # a text frame from a server
MASKED = b"\x82\x83\x01\x02\x03\x04\x60\x60\x60"  # a binary frame from a client
CLOSE_4001 = b"\x88\x06\x0f\xa1gone"  # a close frame: code 4001, with a reason
H2C = SWITCH.replace(b"websocket\r\nc", b"h2c\r\nc")
NOT_REQUESTED = b"upstream switched to a protocol that was not requested\n"
NAMES_NONE = b"upstream's answer is not valid HTTP: it switches protocols and names none\n"


def tail(client: RawClient) -> bytes:
    """What came behind the head of the 101."""
    return bytes(client.received).partition(b"\r\n\r\n")[2]


async def upgraded(proxy: Running, target: str = "/ws") -> RawClient:
    """A client whose upgrade has been accepted."""
    client = await proxy.client()
    client.request(target, *UPGRADE)
    await client.wait_for(lambda client: client.responses)
    assert client.response.status == 101
    return client


# The switch.


@on_each_loop
async def test_a_101_joins_both_sides_with_the_bytes_that_came_along_with_it() -> None:
    async with (
        RawUpstream([GOT_REQUEST, SWITCH + HELLO, HOLD]) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/ws?room=%2F1", *UPGRADE, "Origin: https://chat.example")
        await client.wait_for(HELLO)
        answer = client.response
        assert (answer.status, answer.reason) == (101, "Switching Protocols")
        assert answer.header("connection") == "Upgrade"
        assert answer.header("upgrade") == "websocket"
        assert answer.header("sec-websocket-accept") == "s3pPLBMiTxaQ9kYGzzhZRbK+xOo="
        assert answer.header("sec-websocket-protocol") == "chat"
        assert tail(client) == HELLO
        client.send(MASKED)
        connection = await upstream.connection()
        await connection.wait_received(MASKED)
        asked = connection.requests[0]
        assert (asked.method, asked.target) == ("GET", "/ws?room=%2F1")
        assert asked.header("connection") == "Upgrade"
        assert asked.header("upgrade") == "websocket"
        assert asked.header("sec-websocket-key") == "dGhlIHNhbXBsZSBub25jZQ=="
        assert asked.header("sec-websocket-version") == "13"
        assert asked.header("origin") == "https://chat.example"
        assert asked.header("x-forwarded-for") == "127.0.0.1"
        assert bytes(connection.received).endswith(b"\r\n\r\n" + MASKED)
        assert proxy.metric("sse_proxy_requests_total", route="all", method="GET", code="101") == 1


@on_each_loop
async def test_what_a_client_sends_before_the_101_waits_for_it() -> None:
    accept = asyncio.Event()
    async with (
        RawUpstream([GOT_REQUEST, accept, SWITCH, HOLD]) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.send(request("/ws", *UPGRADE) + MASKED)
        connection = await upstream.connection()
        await connection.wait_received(b"\r\n\r\n")
        client.send(MASKED * 20_000)  # more than is held: the rest waits in the kernel
        assert bytes(connection.received).endswith(b"\r\n\r\n")
        accept.set()
        expected = MASKED * 20_001
        await soon(lambda: connection.received.partition(b"\r\n\r\n")[2] == expected)
        await connection.send(HELLO)
        await client.wait_for(HELLO)


@on_each_loop
async def test_an_upgrade_passes_on_a_stream_route_and_is_no_stream() -> None:
    script: list[Step] = [GOT_REQUEST, SWITCH, HOLD]
    async with RawUpstream(script) as upstream, Instance(config(upstream)) as proxy:
        client = await upgraded(proxy, "/events")
        assert len(proxy.server.streams) == 0
        client.send(MASKED)
        await (await upstream.connection()).wait_received(MASKED)
        await client.close()


# Both directions.


@on_each_loop
async def test_every_byte_passes_in_both_directions_at_once() -> None:
    down, up = bytes(range(256)) * 8192, bytes(reversed(range(256))) * 8192

    async def talk(connection: UpstreamConnection) -> None:
        await connection.next_request()
        await connection.send(SWITCH)
        for at in range(0, len(down), 30_011):
            await connection.send(down[at : at + 30_011])

    async with RawUpstream(talk) as upstream, Running(plain(upstream.url)) as proxy:
        client = await upgraded(proxy)
        client.send(up)
        await soon(lambda: len(tail(client)) == len(down), within=20.0)
        received = (await upstream.connection()).received
        await soon(lambda: received.endswith(up[-1000:]) and len(received) > len(up), within=20.0)
        assert tail(client) == down
        assert received.partition(b"\r\n\r\n")[2] == up
        await client.close()


@on_each_loop
async def test_a_side_that_does_not_read_holds_back_the_other_and_not_the_way_back() -> None:
    async def flood(connection: UpstreamConnection) -> None:
        await connection.next_request()
        await connection.send(SWITCH)
        while True:
            await connection.send(b"x" * 65536)

    async with RawUpstream(flood) as upstream, Running(plain(upstream.url)) as proxy:
        client = await proxy.client(receive_buffer=4096)
        client.request("/ws", *UPGRADE)
        await client.wait_for(lambda client: client.responses)
        client.pause()
        connection = await upstream.connection()
        await connection.wait_blocked()
        await _stays(lambda: connection.unsent)
        client.send(MASKED)
        await connection.wait_received(MASKED)
        client.resume()
        seen = len(client.received)
        await client.wait_for(lambda client: len(client.received) > seen + (4 << 20))
        connection.transport.pause_reading()
        while not client.transport.get_write_buffer_size():
            client.send(b"y" * 65536)
            await asyncio.sleep(0)
        await _stays(client.transport.get_write_buffer_size)
        client.abort()
        connection.transport.resume_reading()
        await connection.wait_closed()


async def _stays(pressure: object) -> None:
    """Wait until what waits in a side's own process grows no less: the proxy has stopped taking it."""
    assert callable(pressure)
    last, same = pressure(), 0
    while same < 10:  # looks, and no time: in that, the machine may have stood still
        await asyncio.sleep(0.01)
        found = pressure()
        last, same = found, same + 1 if found == last else 0
    assert last


# The end.


@pytest.mark.parametrize("end", [CLOSE, RESET])
@on_each_loop
async def test_when_upstream_ends_a_client_that_reads_late_has_all_that_came_and_then_the_end(
    end: Step,
) -> None:
    go_on = asyncio.Event()
    words = HELLO * 20_000 + CLOSE_4001
    script: list[Step] = [GOT_REQUEST, SWITCH, words, go_on, end]
    async with RawUpstream(script) as upstream, Running(plain(upstream.url)) as proxy:
        _small_send_buffers(proxy)
        async with await proxy.client(receive_buffer=4096) as client:
            client.request("/ws", *UPGRADE)
            await client.wait_for(lambda client: client.responses)
            client.pause()
            connection = await upstream.connection()
            await soon(lambda: not untaken(connection.transport))
            for _ in range(100):  # turns of the loop in which the proxy reads it all: RST drops the unread
                await asyncio.sleep(0)
            go_on.set()
            await soon(lambda: connection.lost)
            client.resume()
            assert await client.wait_end() is Ending.EOF
            assert tail(client) == words
        await soon(lambda: not proxy.proxy.busy)


def connected(proxy: Running, **how: Any) -> connect:
    """A client of the library that connects to the proxy."""
    return connect(f"{proxy.url.replace('http', 'ws')}/ws", proxy=None, ssl=client_context(), **how)


def _small_send_buffers(proxy: Running) -> None:
    """Have the kernel take little of what the proxy writes to clients; accepted sockets inherit it."""
    for listener in proxy.server._listeners:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


@on_each_loop
async def test_when_the_client_ends_upstream_has_all_that_came_and_then_the_end() -> None:
    words = MASKED * 100_000 + CLOSE_4001
    async with RawUpstream([GOT_REQUEST, SWITCH, HOLD]) as upstream, Running(plain(upstream.url)) as proxy:
        for index, leave in enumerate((RawClient.close, RawClient.half_close, RawClient.abort)):
            client = await upgraded(proxy)
            connection = await upstream.connection(index)
            client.send(words)
            await soon(lambda client=client: not client.transport.get_write_buffer_size())
            if leave is RawClient.abort:  # takes along what the kernel has not sent
                await connection.wait_received(CLOSE_4001)
            if (left := leave(client)) is not None:
                await left
            assert await connection.wait_closed() is Ending.EOF
            assert connection.received.partition(b"\r\n\r\n")[2] == words
            await client.close()
            await soon(lambda: not proxy.proxy.busy)


@on_each_loop
async def test_a_client_that_leaves_before_the_answer_takes_upstream_along() -> None:
    async with RawUpstream([GOT_REQUEST, HOLD]) as upstream, Running(plain(upstream.url)) as proxy:
        async with await proxy.client() as client:
            client.request("/ws", *UPGRADE)
            connection = await upstream.connection()
            await connection.request()
        await connection.wait_closed()
        left = {"route": "all", "method": "GET", "code": "499"}
        await soon(lambda: proxy.metric("sse_proxy_requests_total", **left) == 1)


@on_each_loop
async def test_a_drain_ends_both_sides() -> None:
    async with RawUpstream([GOT_REQUEST, SWITCH, HOLD]) as upstream:
        async with Running(plain(upstream.url)) as proxy:
            client = await upgraded(proxy)
        await client.wait_end()
        await client.close()
        await upstream.wait_all_closed()


# What is no switch.


@pytest.mark.parametrize("status", ["426 Upgrade Required", "403 Forbidden", "200 OK", "302 Found"])
@on_each_loop
async def test_a_refused_upgrade_is_a_plain_answer_and_the_connection_goes_on(status: str) -> None:
    async def refuse(connection: UpstreamConnection) -> None:
        asked = await connection.next_request()
        if asked.header("upgrade"):
            await connection.send(response(status, b"no", "Upgrade: websocket", "Sec-WebSocket-Version: 13"))
        else:
            await connection.send(response("200 OK", asked.target.encode()))

    async with (
        RawUpstream(refuse) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/ws", *UPGRADE)
        answer = await client.wait_response()
        assert f"{answer.status} {answer.reason}" == status
        assert client.body == b"no"
        assert answer.header("sec-websocket-version") == "13"
        assert answer.header("upgrade") is None
        client.request("/next")
        await client.wait_for(b"/next")
        client.send(request("/ws", *UPGRADE) + request("/behind"))  # one packet, not waiting for the answer
        await client.wait_for(b"/behind")
        assert [answer.status for answer in client.responses] == [int(status[:3]), 200, int(status[:3]), 200]


@pytest.mark.parametrize(
    ("asked", "answered", "why"),
    [
        ([], SWITCH, NOT_REQUESTED),
        (["Connection: Upgrade", "Upgrade: h2c"], H2C, NOT_REQUESTED),
        (UPGRADE, H2C, NOT_REQUESTED),
        (UPGRADE, SWITCH.replace(b"upgrade: websocket\r\n", b""), NAMES_NONE),
        (UPGRADE, SWITCH.replace(b"connection: upgrade\r\n", b""), NAMES_NONE),
    ],
    ids=["unasked", "h2c", "another protocol", "no protocol", "no Connection"],
)
@on_each_loop
async def test_a_switch_that_was_not_requested_is_502_and_later_bytes_are_dropped(
    asked: list[str], answered: bytes, why: bytes
) -> None:
    async with (
        RawUpstream([GOT_REQUEST, answered + HELLO, HOLD]) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/ws", *asked)
        await client.wait_response()
        assert client.response.status == 502
        assert client.body == b'route "all": ' + why
        await upstream.wait_all_closed()
        assert HELLO not in client.received


@on_each_loop
async def test_an_upgrade_to_an_upstream_that_is_down_is_502_and_one_that_becomes_a_stream_is_one() -> None:
    async with (
        RawUpstream([GOT_REQUEST, stream_head(), HOLD]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        upstream.refuse()
        client.request("/events", *UPGRADE)
        await client.wait_response()
        assert client.response.status == 502
        await upstream.start()
        client.request("/events", *UPGRADE)
        await client.wait_for(b":ok\n\n")


# A real library at both ends.


@on_each_loop
async def test_a_real_conversation_is_echoed_compressed_and_pinged() -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, subprotocols=["chat"]) as server:  # type: ignore[list-item]
        port = server.sockets[0].getsockname()[1]
        async with Running(plain(f"http://127.0.0.1:{port}")) as proxy:
            async with connected(proxy, subprotocols=["chat"]) as client:
                assert client.subprotocol == "chat"
                assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
                for message in ("héllo", b"\x00\xff" * 300_000, ""):
                    await client.send(message)
                    assert await client.recv() == message
                await (await client.ping())
            assert client.close_code == 1000


@pytest.mark.parametrize("first", ["client", "server"])
@on_each_loop
async def test_a_close_code_and_its_reason_arrive_from_either_side(first: str) -> None:
    closed: asyncio.Future[tuple[int | None, str | None]] = asyncio.get_running_loop().create_future()

    async def serving(connection: ServerConnection) -> None:
        if first == "server":
            await connection.close(4001, "signed in elsewhere")
        else:
            with pytest.raises(ConnectionClosed):
                await connection.recv()
        closed.set_result((connection.close_code, connection.close_reason))

    async with serve(serving, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Running(plain(f"http://127.0.0.1:{port}")) as proxy:
            async with connected(proxy) as client:
                if first == "client":
                    await client.close(4001, "signed in elsewhere")
                else:
                    with pytest.raises(ConnectionClosed):
                        await client.recv()
            assert (client.close_code, client.close_reason) == (4001, "signed in elsewhere")
            assert await closed == (4001, "signed in elsewhere")


@on_each_loop
async def test_a_real_client_sees_the_status_of_a_refusal() -> None:
    async def serving(_: ServerConnection) -> None:
        raise AssertionError("not reached")

    def refuse(connection: ServerConnection, _: object) -> object:
        return connection.respond(403, "not you\n")

    async with serve(serving, "127.0.0.1", 0, process_request=refuse) as server:  # type: ignore[arg-type]
        port = server.sockets[0].getsockname()[1]
        async with Running(plain(f"http://127.0.0.1:{port}")) as proxy:
            with pytest.raises(InvalidStatus) as caught:
                await connected(proxy)
            assert (caught.value.response.status_code, caught.value.response.body) == (403, b"not you\n")


# A side that takes nothing.


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Sides for which so much waits that the other side is not read. Patience is short."""
    monkeypatch.setattr(websocket, "_LOOK", 0.02)
    monkeypatch.setattr(websocket, "_SEND_TIMEOUT", 0.1)
    found: list[object] = []
    pause_writing = websocket._End.pause_writing

    def noted(end: websocket._End) -> None:
        found.append(end)
        pause_writing(end)

    monkeypatch.setattr(websocket._End, "pause_writing", noted)
    return found


@pytest.mark.parametrize("resets", [False, True], ids=["ends", "resets"])
@on_each_loop
async def test_a_client_that_leaves_while_upstream_takes_nothing_is_noticed_and_both_sides_are_closed(
    resets: bool, held_back: list[object]
) -> None:
    async with RawUpstream([GOT_REQUEST, SWITCH, HOLD]) as upstream, Running(plain(upstream.url)) as proxy:
        client = await upgraded(proxy)
        connection = await upstream.connection()
        connection.transport.pause_reading()
        while not held_back:
            client.send(b"y" * 16384)
            await soon(lambda: not untaken(client.transport))
        await asyncio.sleep(0.3)  # several times the patience: who is still there may wait
        assert proxy.proxy.busy
        client.abort() if resets else client.half_close()
        await soon(lambda: not proxy.proxy.busy)
        await soon(lambda: not proxy.upstream_connections)
        connection.transport.resume_reading()
        await connection.wait_closed()
        await client.close()


@pytest.mark.parametrize("resets", [False, True], ids=["ends", "resets"])
@on_each_loop
async def test_an_upstream_that_leaves_while_the_client_takes_nothing_is_noticed_and_both_sides_are_closed(
    resets: bool, held_back: list[object]
) -> None:
    async def flood(connection: UpstreamConnection) -> None:
        await connection.next_request()
        await connection.send(SWITCH)
        while not held_back:
            await connection.send(b"x" * 16384)
            await soon(lambda: not untaken(connection.transport))
        connection.reset() if resets else connection.close()

    async with RawUpstream(flood) as upstream, Running(plain(upstream.url)) as proxy:
        client = await upgraded(proxy)
        client.pause()
        await soon(lambda: held_back)
        await soon(lambda: not proxy.upstream_connections)
        await soon(lambda: not proxy.proxy.busy)
        client.resume()
        await client.wait_end()
        await client.close()


@on_each_loop
async def test_what_a_client_sent_before_it_left_arrives_as_long_as_upstream_takes_any(
    held_back: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "_SEND_TIMEOUT", 5.0)
    async with RawUpstream([GOT_REQUEST, SWITCH, HOLD]) as upstream, Running(plain(upstream.url)) as proxy:
        client = await upgraded(proxy)
        connection = await upstream.connection()
        connection.transport.pause_reading()
        sent = 0
        while not held_back:
            client.send(b"y" * 65536)
            sent += 65536
            await soon(lambda: not untaken(client.transport))
        client.half_close()
        await asyncio.sleep(0.1)  # several looks
        connection.transport.resume_reading()
        assert await connection.wait_closed() is Ending.EOF
        assert connection.received.count(b"y") >= sent
        await client.close()
