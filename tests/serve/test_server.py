"""One instance from its start to its exit: what is bound, who is told of the end, and how long it takes."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Self

import pytest

from sse_keepalive_proxy.build import BUILD
from sse_keepalive_proxy.errors import CannotListen
from sse_keepalive_proxy.observe.admin import Phase
from sse_keepalive_proxy.stream.families import LateError
from sse_keepalive_proxy.stream.late_error import late_error
from sse_keepalive_proxy.stream.messages import CloseReason
from tests.support.http1 import request
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.programs import free_port, running, wait_for_port
from tests.support.proxy_process import running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    LAST_CHUNK,
    RawUpstream,
    UpstreamConnection,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop, on_loop, settings_of, soon
from tests.support.sockets import Ending

SILENT = [GOT_REQUEST, stream_head()]
NOWHERE = "http://127.0.0.1:1"
QUICK = "drain: {timeout: 20s, spread: 10ms}"
SLOW = "drain: {timeout: 10h, spread: 10h}"
"""No stream ends by itself within the time of a test, though each draws a moment of this span."""
HELD = "reconnect: {when: always}"
"""An unfinished block of upstream is kept back for ever, and not only for a second."""


class Draining:
    """The drain of a server, under way until the block ends; then it is hurried. `task` is done when the
    server has stopped.
    """

    def __init__(self, proxy: Instance) -> None:
        self._hurry = asyncio.Event()
        self.task = asyncio.create_task(proxy.server.drain(self._hurry))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._hurry.set()
        await self.task


async def refused(port: int) -> bool:
    """Whether nobody listens on a port of 127.0.0.1 any more."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    await writer.wait_closed()
    return False


def last_block(client: RawClient) -> str:
    """The last block of a stream; the body has to end with its blank line."""
    *_, block, rest = client.body.decode().split("\n\n")
    assert rest == ""
    return block


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The start.


@on_each_loop
async def test_it_listens_on_every_address_it_is_given(tmp_path: Path) -> None:
    listen = f"listen: ['127.0.0.1:0', 'unix:{tmp_path}/proxy', '127.0.0.2:0']"
    async with (
        RawUpstream([GOT_REQUEST, response("200 OK", b"here")]) as upstream,
        Instance(config(upstream, before=listen)) as proxy,
    ):
        places = proxy.server.addresses
        assert len(places) == 3
        for place in places:
            where = {"path": place[5:]} if place.startswith("unix:") else {"url": f"http://{place}"}
            async with await RawClient.connect(**where) as client:
                client.request("/")
                await client.wait_response()
                assert client.body == b"here"


@on_each_loop
async def test_it_is_ready_once_it_listens_and_not_before() -> None:
    proxy = Instance(config(NOWHERE))
    assert proxy.server.phase is Phase.STARTING
    async with proxy:
        assert proxy.server.phase is Phase.READY
    assert proxy.server.phase is Phase.DRAINING


@on_each_loop
@pytest.mark.parametrize("key", ["listen", "admin.listen"])
async def test_when_one_address_cannot_be_had_none_is_kept(key: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, free = taken.getsockname()[1], free_port()
        before = {
            "listen": f"listen: ['127.0.0.1:{free}', 'unix:{tmp_path}/proxy', '127.0.0.1:{port}']",
            "admin.listen": f"listen: ['127.0.0.1:{free}', 'unix:{tmp_path}/proxy']\n"
            f"admin: {{listen: '127.0.0.1:{port}'}}",
        }
        with pytest.raises(CannotListen, match=rf"^{key}: cannot listen on 127\.0\.0\.1:{port}: "):
            await Instance(config(NOWHERE, before=before[key])).server.start()
        await asyncio.sleep(0)  # transports close their sockets in the loop's next turn
        gc.collect()
        assert await refused(free)
        assert not (tmp_path / "proxy").exists()


@on_each_loop
async def test_a_start_that_fails_takes_nothing_from_who_has_the_address(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    async with (
        RawUpstream([GOT_REQUEST, response("200 OK", b"here")]) as upstream,
        Instance(config(upstream, before=f"listen: ['127.0.0.1:0', 'unix:{tmp_path}/proxy']")),
    ):
        for name in ("proxy", "file"):
            for key in (f"listen: unix:{tmp_path}/{name}", f"admin: {{listen: 'unix:{tmp_path}/{name}'}}"):
                with pytest.raises(CannotListen):
                    await Instance(config(NOWHERE, before=key)).server.start()
        assert (tmp_path / "file").read_bytes() == b"precious"
        async with await RawClient.connect(path=tmp_path / "proxy") as client:
            client.request("/")
            await client.wait_response()
            assert client.body == b"here"


# The files of Unix sockets.


@on_each_loop
async def test_a_unix_listener_serves_streams_and_its_file_is_removed(tmp_path: Path) -> None:
    places = f"listen: ['127.0.0.1:0', 'unix:{tmp_path}/proxy']\nadmin: {{listen: 'unix:{tmp_path}/admin'}}"
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before=f"{places}\n{QUICK}")) as proxy,
    ):
        assert names_in(tmp_path) == ["admin", "proxy"]
        async with await RawClient.connect(path=tmp_path / "proxy") as client:
            client.request("/events", EVENT_SOURCE)
            await client.wait_for(b"connection_confirmed")
            async with Draining(proxy) as draining:
                await client.wait_response()
                await draining.task
        assert last_block(client).startswith("event: stream_closing\n")
        assert names_in(tmp_path) == []


@on_each_loop
async def test_a_successor_may_take_a_unix_socket_over_while_the_old_one_still_drains(tmp_path: Path) -> None:
    listen = f"listen: ['127.0.0.1:0', 'unix:{tmp_path}/proxy']\nreuse_port: true"
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before=f"{listen}\n{SLOW}")) as old,
        await RawClient.connect(path=tmp_path / "proxy") as client,
    ):
        client.request("/events", EVENT_SOURCE)
        await client.wait_for(b"connection_confirmed")
        async with Draining(old) as draining, Instance(config(upstream, before=listen)) as new:
            assert not draining.task.done()
            assert names_in(tmp_path) == ["proxy"]
            draining._hurry.set()
            await draining.task
            assert names_in(tmp_path) == ["proxy"]  # it is the successor's
            async with await RawClient.connect(path=tmp_path / "proxy") as late:
                late.request("/events", EVENT_SOURCE)
                await late.wait_for(b"connection_confirmed")
            assert new.server.phase is Phase.READY


# The drain.


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_streams_get_the_end_at_a_block_boundary() -> None:
    async with (
        RawUpstream([*SILENT, chunk(b"data: whole\n\ndata: ha")]) as upstream,
        Instance(config(upstream, HELD, before=QUICK)) as proxy,
        await proxy.event_source() as browser,
    ):
        await browser.wait_for(b"data: whole\n\n")
        async with Draining(proxy) as draining:
            await browser.wait_response()
            await draining.task
        event, retry, data = last_block(browser).split("\n")
        assert event == "event: stream_closing"
        assert 1000 <= int(retry.removeprefix("retry: ")) <= 5010  # of the drain 10 ms may be left
        assert json.loads(data.removeprefix("data: ")) == {"type": "stream_closing", "reason": "drain"}
        assert b"data: ha" not in browser.body
        assert proxy.closed() == {"drain": 1}
        await upstream.wait_all_closed()


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_an_answer_that_its_client_has_only_once_runs_to_its_own_end() -> None:
    event = b"data: whole\n\n"
    async with (
        RawUpstream([*SILENT, chunk(event), go := asyncio.Event(), chunk(event), LAST_CHUNK]) as upstream,
        Instance(config(upstream, before=QUICK)) as proxy,
        await proxy.event_source() as browser,
        await proxy.client() as model,
    ):
        model.request("/events", method="POST", body=b"{}")
        await model.wait_for(event)
        await browser.wait_for(event)
        async with Draining(proxy) as draining:
            await browser.wait_response()  # the spread is over
            await soon(lambda: not proxy.server._listeners, lambda: "it still listens")
            assert not draining.task.done()
            go.set()
            await model.wait_response()
            assert model.body.endswith(event + event)
            await draining.task


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_an_answer_that_does_not_end_is_told_so_and_cut_before_the_timeout() -> None:
    async with (
        RawUpstream([*SILENT, chunk(b"data: 1\n\n")]) as upstream,
        Instance(config(upstream, before="drain: {timeout: 1s, spread: 10ms}")) as proxy,
        await proxy.client() as model,
    ):
        model.request("/events", method="POST", body=b"{}")
        await model.wait_for(b"data: 1\n\n")
        async with Draining(proxy) as draining:
            await draining.task
        assert not model.response.complete
        assert model.body.endswith(late_error(LateError.API_ERROR, CloseReason.DRAIN, None))
        assert proxy.closed() == {"drain": 1}


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_while_streams_drain_the_listener_stays_open_and_the_probe_says_what_is_going_on() -> None:
    slow = f"admin: {{listen: '127.0.0.1:0'}}\n{SLOW}"

    async def script(connection: UpstreamConnection) -> None:
        asked = await connection.next_request()
        await connection.send(stream_head() if asked.target == "/events" else response("200 OK", b"here"))

    async with (
        RawUpstream(script) as upstream,
        Instance(config(upstream, before=slow)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        async with Draining(proxy) as draining:
            await proxy.until(lambda: proxy.server.phase is Phase.DRAINING)
            async with await proxy.client() as late:
                late.request("/plain")
                await late.wait_end()
                assert (late.response.status, late.body) == (200, b"here")
                assert late.response.header("connection") == "close"
            async with await proxy.event_source() as late:
                await late.wait_for(b"connection_confirmed")
            for path, status, body in (("/readyz", 503, b"draining\n"), ("/livez", 200, b"alive\n")):
                async with await RawClient.connect(f"http://{proxy.server.admin_addresses[0]}") as admin:
                    admin.request(path)
                    await admin.wait_response()
                    assert (admin.response.status, admin.body) == (status, body)
            assert client.ending is None
            assert not draining.task.done()


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_the_ends_are_spread() -> None:
    count = 30
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before="drain: {timeout: 20s, spread: 900ms}")) as proxy,
    ):
        clients = [await proxy.event_source() for _ in range(count)]
        for client in clients:
            await client.wait_for(b"connection_confirmed")
        began_at = asyncio.get_running_loop().time()
        async with Draining(proxy) as draining:
            await draining.task
            for client in clients:
                await client.wait_response()
        ended = sorted(client.arrivals[-1].at - began_at for client in clients)
        assert ended[0] < ended[-1] - 0.3  # thirty draws from 0.9 s all within 0.3 s: never
        assert len({round(at, 1) for at in ended}) >= 3
        assert len({last_block(client) for client in clients}) > count / 2  # so is the time to come back
        assert proxy.closed() == {"drain": count}
        for client in clients:
            await client.close()


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_a_client_that_takes_nothing_does_not_hold_the_exit_beyond_the_timeout() -> None:
    body = chunk(b"data: " + b"x" * 900_000 + b"\n\n") * 12
    async with (
        RawUpstream([*SILENT, body]) as upstream,
        Instance(config(upstream, before="drain: {timeout: 300ms, spread: 10ms}")) as proxy,
        await proxy.event_source(receive_buffer=4096) as client,
    ):
        await client.wait_for(b"connection_confirmed")
        client.pause()
        (stream,) = proxy.server.streams
        await proxy.until(lambda: stream._paused)  # every buffer on the way is full
        began_at = asyncio.get_running_loop().time()
        async with Draining(proxy) as draining:
            await draining.task
        took = asyncio.get_running_loop().time() - began_at
        assert 0.29 <= took < 20  # its own write_timeout is 30 s
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        assert proxy.closed() == {"drain": 1}
        client.abort()


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_a_hurried_drain_does_not_wait() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before=SLOW)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        draining = Draining(proxy)
        async with asyncio.timeout(10):
            async with draining:
                pass
        await client.wait_end()
        assert proxy.closed() == {"drain": 1}


HOLD = "leave: {hold: 1h}"


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_what_is_held_without_a_client_ends_after_the_last_client_and_a_grace() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, HOLD, before="drain: {timeout: 60s, spread: 500ms}")) as proxy,
        await proxy.event_source() as gone,
        await proxy.event_source() as client,
    ):
        for each in (gone, client):
            await each.wait_for(b"connection_confirmed")
        await gone.close()
        await proxy.until(lambda: len(proxy.server.streams.held) == 1)
        now = asyncio.get_running_loop().time
        async with Draining(proxy) as draining:
            await client.wait_end()
            ended_at = now()
            await proxy.until(lambda: len(proxy.server.streams.held) == 2)  # the streams of both clients
            assert not any(connection.lost for connection in upstream.connections)
            await draining.task
            assert 4 < now() - ended_at < 50  # the grace began before this test knew of the end
        await upstream.wait_all_closed()


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_a_drain_is_over_when_upstream_has_ended_what_was_held() -> None:
    async with (
        RawUpstream([*SILENT, go := asyncio.Event(), LAST_CHUNK]) as upstream,
        Instance(config(upstream, HOLD, before=QUICK)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        async with Draining(proxy) as draining:
            await proxy.until(lambda: len(proxy.server.streams.held) == 1)
            ended_at = asyncio.get_running_loop().time()
            go.set()
            await draining.task
            assert asyncio.get_running_loop().time() - ended_at < 4


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_a_group_that_waits_for_clients_to_come_back_does_not_prolong_a_drain() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, "share: {by: credential, linger: 1m}", before=QUICK)) as proxy,
        await proxy.event_source("/events?access_token=one") as client,
    ):
        await client.wait_for(b"connection_confirmed")
        async with Draining(proxy) as draining:
            await client.wait_end()
            ended_at = asyncio.get_running_loop().time()
            await draining.task
            assert asyncio.get_running_loop().time() - ended_at < 4
        await upstream.wait_all_closed()


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_a_hurried_drain_holds_nothing() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, HOLD, before=SLOW)) as proxy,
        await proxy.event_source() as gone,
        await proxy.event_source() as client,
    ):
        for each in (gone, client):
            await each.wait_for(b"connection_confirmed")
        await gone.close()
        await proxy.until(lambda: len(proxy.server.streams.held) == 1)
        async with asyncio.timeout(10), Draining(proxy):
            pass
        await upstream.wait_all_closed()
        assert len(proxy.server.streams.held) == 0


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_a_request_in_flight_is_answered_before_the_exit() -> None:
    async with (
        RawUpstream([GOT_REQUEST, go := asyncio.Event(), response("200 OK", b"late but whole")]) as upstream,
        Instance(config(upstream, before=QUICK)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/plain")
        await (await upstream.connection()).request()
        async with Draining(proxy) as draining:
            await proxy.until(lambda: proxy.server.phase is Phase.DRAINING)
            go.set()
            await client.wait_response()
            await draining.task
        assert client.body == b"late but whole"
        assert await client.wait_end() is Ending.EOF


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_a_stream_that_upstream_accepts_during_a_drain_gets_the_end_too() -> None:
    async with (
        RawUpstream([GOT_REQUEST, go := asyncio.Event(), stream_head()]) as upstream,
        Instance(config(upstream, before=QUICK)) as proxy,
        await proxy.event_source() as client,
    ):
        await (await upstream.connection()).request()
        async with Draining(proxy) as draining:
            await proxy.until(lambda: proxy.server.phase is Phase.DRAINING)
            go.set()
            await client.wait_response()
            await draining.task
        assert client.response.status == 200
        assert last_block(client).startswith("event: stream_closing\n")


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_idle_connections_have_a_grace_and_half_a_request_is_answered() -> None:
    drain = "drain: {timeout: 60s, spread: 10ms, idle_grace: 50ms}"
    async with (
        RawUpstream([GOT_REQUEST, response("200 OK", b"here")]) as upstream,
        Instance(config(upstream, before=drain)) as proxy,
        await proxy.client() as used,
        await proxy.client() as unused,
        await proxy.client() as half,
    ):
        used.request("/")
        await used.wait_response()
        half.send(request("/")[:-2])
        await proxy.until(lambda: proxy.idle and len(proxy.proxy.frontend.connections) == 3)
        async with asyncio.timeout(10), Draining(proxy) as draining:
            for client in (used, unused):
                assert await client.wait_end() is Ending.EOF
            assert not draining.task.done()
            half.send(b"\r\n")
            assert await half.wait_end() is Ending.EOF
            await draining.task
        assert half.body == b"here"
        assert half.response.header("connection") == "close"


@on_each_loop
async def test_the_log_says_what_is_ready_what_drains_and_what_was_cut(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="sse_keepalive_proxy.serve")
    text = f"limits: {{max_streams: 2, max_connections: 10}}\n{SLOW}"
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before=text)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        async with Draining(proxy):
            pass
        told = [(record.message, record.__dict__["fields"]) for record in caplog.records]
        assert told == [
            ("ready", {"listen": proxy.address, "admin": "off", "build": BUILD}),
            ("draining", {"streams": 1, "timeout_s": 36000.0}),
            ("stopped", {"cut": 1}),
        ]


# The real process and its signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_streams_at_a_block_boundary_and_the_process_exits_0(
    number: signal.Signals, tmp_path: Path
) -> None:
    async def story() -> None:
        async with RawUpstream([*SILENT, chunk(b"data: whole\n\ndata: ha")]) as upstream:
            with running_proxy(tmp_path, config=config(upstream, HELD, before=QUICK)) as proxy:
                async with await RawClient.connect(proxy.url) as client:
                    client.request("/events", EVENT_SOURCE)
                    await client.wait_for(b"data: whole\n\n", within=20)
                    proxy.send_signal(number)
                    await client.wait_response(within=20)
                assert client.body.split(b"data: whole\n\n")[1].startswith(b"event: stream_closing\nretry: ")
                assert b"data: ha" not in client.body
                assert proxy.wait() == 0
                assert "reason=drain" in proxy.log
                assert proxy.log.rstrip().endswith("stopped  cut=0")

    on_loop("asyncio", story(), within=90)


def test_while_the_process_drains_it_is_not_ready_and_a_second_signal_stops_it_at_once(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with RawUpstream(SILENT) as upstream:
            with running_proxy(tmp_path, config=config(upstream, before=SLOW)) as proxy:
                clients = [await RawClient.connect(proxy.url) for _ in range(5)]
                for client in clients:
                    client.request("/events", EVENT_SOURCE)
                for client in clients:
                    await client.wait_for(b"connection_confirmed")
                proxy.send_signal(signal.SIGTERM)
                proxy.wait_for_log("draining")
                assert proxy.admin("/readyz") == (503, "draining\n")
                assert proxy.admin("/livez") == (200, "alive\n")
                assert proxy.metric("sse_proxy_streams_closed_total", route="events", reason="drain") <= 5
                assert not await refused(proxy.port)
                proxy.send_signal(signal.SIGINT)
                assert proxy.wait(30) == 0
                assert proxy.log.count("second signal: stopping at once") == 1
                assert "Traceback" not in proxy.log
                for client in clients:
                    await client.wait_end()
                    await client.close()

    on_loop("asyncio", story(), within=90)


def test_a_limit_of_streams_above_the_descriptor_limit_is_logged_at_start(tmp_path: Path) -> None:
    port = free_port()
    admin = f"127.0.0.1:{free_port()}"
    command = f"{sys.executable} -m sse_keepalive_proxy run --upstream {NOWHERE}"
    where = f"--listen 127.0.0.1:{port} --admin-listen {admin}"
    package = str(Path(__file__).parents[2])
    with running(
        ["sh", "-c", f"ulimit -n 600 && exec {command} {where}"],
        port=port,
        log_file=tmp_path / "log",
        env={**os.environ, "PYTHONPATH": package, "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path,
    ) as program:
        wait_for_port(program, int(admin.rpartition(":")[2]))
        said = next(line for line in program.log.splitlines() if "WARNING" in line)
        assert "limits.max_streams is more than the descriptor limit allows; raise `ulimit -n`" in said
        assert said.endswith("max_streams=10000 allowed=200")


def test_streams_that_are_held_have_descriptors_of_their_own() -> None:
    async def story() -> None:
        streams = "limits: {max_streams: 1000000000, max_held: 1000000000}"
        async with (
            Instance(config(NOWHERE, before=streams)) as without,
            Instance(config(NOWHERE, "leave: {hold: 1h}", before=streams)) as holding,
        ):
            room, less = without.server.streams.limit, holding.server.streams.limit
            assert 0 < less < room
            assert room * 2 * 0.74 < less * 2 < room * 2 * 0.76

    on_loop("asyncio", story())


def test_the_limit_that_is_allowed_is_the_one_that_counts(tmp_path: Path) -> None:
    async def story() -> None:
        async with Instance(config(NOWHERE, before="limits: {max_streams: 1000000000}")) as proxy:
            assert proxy.metric("streams_limit") == proxy.server.streams.limit < 1_000_000_000

    on_loop("asyncio", story())
    assert settings_of(config(NOWHERE)).limits.max_streams == 10000
