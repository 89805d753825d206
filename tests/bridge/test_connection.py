"""The connection to a real nats-server: a burst leaves the loop free, an unused connection is closed, what is
published has arrived.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from sse_keepalive_proxy.bridge import connection as connection_module
from sse_keepalive_proxy.bridge.connection import Connections
from sse_keepalive_proxy.stream.policy import NatsServers
from tests.support.nats import nats_server, publisher
from tests.support.running import on_each_loop, soon

BURST = 200


@on_each_loop
async def test_the_event_loop_runs_between_slow_messages_of_a_burst(tmp_path: Path) -> None:
    loop, turns, seen = asyncio.get_running_loop(), 0, list[int]()

    def turn() -> None:
        nonlocal turns
        turns += 1
        ticking[0] = loop.call_soon(turn)

    def receive(payload: bytes, position: int) -> None:
        time.sleep(0.002)
        seen.append(turns)

    with nats_server(tmp_path) as (_, port):
        connections = Connections()
        connection = connections.to(NatsServers((f"nats://127.0.0.1:{port}",)))
        connection.receive("chat", receive)
        await soon(lambda: connection.connected_since is not None)
        ticking = [loop.call_soon(turn)]
        async with publisher(port) as client:
            for _ in range(BURST):  # all fit into one read
                await client.publish("chat", b"1")
            await client.flush()
            await soon(lambda: len(seen) == BURST)
        ticking[0].cancel()
        await connections.close()
    assert max(seen.count(each) for each in set(seen)) < BURST / 10


@on_each_loop
async def test_what_comes_faster_than_it_is_handled_is_counted_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sse_keepalive_proxy.bridge.connection.MOST_PENDING", 10)
    seen = []
    with nats_server(tmp_path) as (_, port), caplog.at_level(logging.WARNING, "sse_keepalive_proxy.bridge"):
        connections = Connections()
        connection = connections.to(NatsServers((f"nats://127.0.0.1:{port}",)))
        connection.receive("chat.*", lambda payload, position: seen.append(payload))
        await soon(lambda: connection.connected_since is not None)
        connected_since = connection.connected_since
        async with publisher(port) as client:
            for _ in range(BURST):  # all fit into one read
                await client.publish("chat.1", b"1")
            await client.flush()
        await soon(lambda: len(seen) + connection.lost == BURST)
        assert connection.lost > 0
        assert connection.connected_since != connected_since
        await connections.close()
    (line,) = [each for each in caplog.records if each.name == "sse_keepalive_proxy.bridge"]
    assert "messages of NATS are lost" in line.getMessage()


@pytest.mark.parametrize("turns", range(6))
@on_each_loop
async def test_it_closes_also_in_the_moment_in_which_an_attempt_to_connect_fails(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11 then raises the failure in the place of the cancellation, in one of these turns."""
    asked, fails = asyncio.Event(), asyncio.Event()

    async def open_connection(**_: object) -> None:
        asked.set()
        await fails.wait()
        raise OSError

    monkeypatch.setattr(connection_module, "_ENDS", 0.05)
    monkeypatch.setattr(asyncio, "open_connection", open_connection)
    connections = Connections()
    connections.to(NatsServers(("nats://nowhere:4222",))).receive("chat", lambda payload, position: None)
    await asked.wait()
    fails.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await connections.close()


@pytest.mark.parametrize("turns", range(3))
@on_each_loop
async def test_it_leaves_no_socket_open_also_in_the_moment_in_which_the_server_refuses_it(turns: int) -> None:
    """nats-py, which is cancelled while it closes a refused connection, does not close it."""
    writers: list[asyncio.StreamWriter] = []

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(b"INFO {\"auth_required\": true}\r\n-ERR 'Authorization Violation'\r\n")

    said = asyncio.Event()

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.set()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    handler = Said()
    logging.getLogger("sse_keepalive_proxy.bridge").addHandler(handler)
    try:
        connections = Connections()
        connections.to(NatsServers((f"nats://127.0.0.1:{port}",))).receive("chat", lambda *_: None)
        await said.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        await connections.close()
    finally:
        logging.getLogger("sse_keepalive_proxy.bridge").removeHandler(handler)
        for writer in writers:
            writer.close()
        server.close()


@on_each_loop
async def test_the_next_message_waits_until_the_one_before_has_been_handled(tmp_path: Path) -> None:
    seen, handled = list[bytes](), asyncio.Event()

    def receive(payload: bytes, position: int) -> asyncio.Event:
        seen.append(payload)
        return handled

    with nats_server(tmp_path) as (_, port):
        connections = Connections()
        connection = connections.to(NatsServers((f"nats://127.0.0.1:{port}",)))
        connection.receive("chat", receive)
        await soon(lambda: connection.connected_since is not None)
        async with publisher(port) as client:
            for number in range(3):
                await client.publish("chat", b"%d" % number)
            await client.flush()
            await soon(lambda: seen)
            await client.flush()
            assert seen == [b"0"]
            handled.set()
            await soon(lambda: seen == [b"0", b"1", b"2"])
        await connections.close()


@on_each_loop
async def test_equal_servers_have_one_connection_until_it_is_not_used(tmp_path: Path) -> None:
    def receive(payload: bytes, position: int) -> None:
        pass

    with nats_server(tmp_path) as (_, port):
        servers = NatsServers((f"nats://127.0.0.1:{port}",))
        connections = Connections()
        connection = connections.to(servers)
        assert connections.to(NatsServers(servers.urls)) is connection
        connection.receive("a", receive)
        connection.receive("a", receive)
        connection.receive("b", receive)
        await soon(lambda: connection.connected_since is not None)
        connection.ignore("a", receive)
        connections.tidy()
        assert connection.connected_since is not None
        connection.ignore("a", receive)
        connection.ignore("b", receive)
        connections.tidy()
        await soon(lambda: connection.connected_since is None)
        assert connections.to(servers) is not connection
        await connections.close()


@on_each_loop
async def test_a_message_has_been_published_when_the_server_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_LAST_WORDS", 20.0)
    users = '[{user: a, password: b, permissions: {publish: {deny: "closed.>"}}}]'
    (tmp_path / "nats.conf").write_text(f"authorization: {{users: {users}}}")
    with nats_server(tmp_path, None, "-c", str(tmp_path / "nats.conf")) as (_, port):
        connections = Connections()
        connection = connections.to(NatsServers((f"nats://127.0.0.1:{port}",), user="a", password="b"))
        assert await connection.publish("open", b"1") == "there is no connection"
        seen: list[bytes] = []
        connection.receive("open", lambda payload, _: seen.append(payload))
        await soon(lambda: connection.connected_since is not None)
        for _ in range(20):
            assert await connection.publish("closed.A", b"1") == "the server does not permit it on closed.A"
            assert await connection.publish("open", b"1") is None
        await soon(lambda: len(seen) == 20)
        unfinished = connection.publish("open", b"last")
        await connections.close()
        assert unfinished.result() is None
    assert await connection.publish("open", b"1") == "there is no connection"
