"""NATS servers with a password, with TLS, in a cluster, slow, and away: what the bridge does with each."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client

from sse_keepalive_proxy.bridge import connection
from sse_keepalive_proxy.demo.tokens import new_tokens
from sse_keepalive_proxy.live.bridge import RouteBridge
from tests.support.authority import Authority
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.looping import in_loop, soon
from tests.support.nats import nats_server, publisher, send
from tests.support.programs import Program, free_port
from tests.support.proxy_process import running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, RawUpstream, stream_head
from tests.support.running import on_each_loop

SILENT = [GOT_REQUEST, stream_head()]
TOKENS = new_tokens()
STREAM = """\
identity: {{verify: upstream}}
bridge:
  servers: {servers}
  grace: 10ms
  subscriber: claim:user.id
  subjects: [{{subject: chat, recipients: to, data: text}}]
{more}
"""


def stream(*urls: str, more: str = "") -> str:
    return STREAM.format(servers=f"[{', '.join(urls)}]", more=more)


async def fills(stack: AsyncExitStack, proxy: Instance, client: Client) -> None:
    """A client gets a message that `client` publishes."""
    await proxy.until(lambda: proxy.metric("bridge_connected"))
    target = f"/events?access_token={TOKENS.issue(7)}"
    page = await stack.enter_async_context(await proxy.event_source(target))
    await page.wait_for(b"connection_confirmed")
    while b'data: "hi"' not in page.body:  # the connection may be moving to another server
        await send(client, "chat", {"to": 7, "text": "hi"})
        await asyncio.sleep(0.05)


@on_each_loop
async def test_a_server_that_wants_a_password_gets_it(tmp_path: Path) -> None:
    more = "  user: me\n  password: secret"
    with nats_server(tmp_path, None, "--user", "me", "--pass", "secret") as (_, port):
        async with AsyncExitStack() as stack:
            upstream = await stack.enter_async_context(RawUpstream(SILENT))
            text = config(upstream, stream(f"nats://127.0.0.1:{port}", more=more))
            proxy = await stack.enter_async_context(Instance(text))
            client = Client()
            await client.connect(f"nats://me:secret@127.0.0.1:{port}", allow_reconnect=False)
            stack.push_async_callback(client.close)
            await fills(stack, proxy, client)


@on_each_loop
async def test_a_server_that_refuses_the_password_harms_no_stream_and_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "_RECONNECT_WAIT", 0.1)
    more = "  user: me\n  password: wrong-one"
    with nats_server(tmp_path, None, "--user", "me", "--pass", "secret") as (server, port):
        async with RawUpstream(SILENT) as upstream:
            text = config(upstream, stream(f"nats://127.0.0.1:{port}", more=more))
            with caplog.at_level(logging.WARNING, "sse_keepalive_proxy.bridge"):
                async with Instance(text) as proxy:
                    target = f"/events?access_token={TOKENS.issue(7)}"
                    async with await proxy.event_source(target) as page:
                        await page.wait_for(b"connection_confirmed")
                        await soon(lambda: lines(server.log, "authentication error") >= 4)
                        assert not proxy.metric("bridge_connected")
    (said,) = [each.getMessage() for each in caplog.records if each.name == "sse_keepalive_proxy.bridge"]
    assert "no connection to NATS" in said
    assert "Authorization" in said
    assert "wrong-one" not in caplog.text


@in_loop
async def test_a_server_that_refuses_the_password_for_a_time_is_asked_until_it_accepts_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port, before = free_port(), 0
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream(SILENT))
        text = stream(f"nats://127.0.0.1:{port}", more="  user: me\n  password: secret")
        proxy = await stack.enter_async_context(Instance(config(upstream, text)))
        for password in ("secret", "changed", "secret"):
            with nats_server(tmp_path, port, "--user", "me", "--pass", password) as (server, _):
                if password == "secret":
                    await proxy.until(lambda: proxy.metric("bridge_connected"))
                    before = before or lines(caplog.text, "no connection to NATS") + 1
                else:
                    await soon(
                        lambda server=server: lines(server.log, "authentication error") >= 3, within=30.0
                    )
                    assert not proxy.metric("bridge_connected")
            await proxy.until(lambda: not proxy.metric("bridge_connected"))
    assert lines(caplog.text, "no connection to NATS") == before + 1  # lost, and lost again


PERMISSIONS = 'authorization: {users: [{user: me, password: secret, permissions: {subscribe: {deny: "%s"}}}]}'


@on_each_loop
async def test_a_route_with_a_subject_that_the_server_refuses_is_not_connected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sse_keepalive_proxy.bridge")
    written, port, refused = tmp_path / "nats.conf", free_port(), "does not permit to subscribe to Chat.*:"
    login = "  user: me\n  password: secret"
    text = stream(f"nats://127.0.0.1:{port}", more=login).replace("subject: chat,", "subject: Chat.*,")
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream(SILENT))
        proxy = await stack.enter_async_context(Instance(config(upstream, text)))
        bridge = proxy.server.metrics.routes["events"].bridge
        assert isinstance(bridge, RouteBridge)
        for denied in ("Chat.>", "Chat.>", "other"):
            caplog.clear()
            written.write_text(PERMISSIONS % denied)
            with nats_server(tmp_path, port, "-c", str(written)):
                if denied == "other":
                    await proxy.until(lambda: proxy.metric("bridge_connected"))
                    assert refused not in caplog.text
                    assert "connected to NATS" in caplog.text
                else:
                    await soon(lambda: bridge.can_publish, within=30.0)
                    assert lines(caplog.text, refused)
                    assert "subscribe on Chat.* there" in caplog.text
                    assert "connected to NATS" not in caplog.text
                    assert not proxy.metric("bridge_connected")
                    assert not bridge.connected_since(bridge.now())
            await soon(lambda: not bridge.can_publish, within=30.0)


@on_each_loop
async def test_a_server_with_tls_is_verified_by_the_given_authority(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    file = authority.certificate("nats", "127.0.0.1", "localhost")
    tls = ("--tls", "--tlscert", str(file), "--tlskey", str(file))
    with nats_server(tmp_path, None, *tls) as (_, port):
        async with AsyncExitStack() as stack:
            upstream = await stack.enter_async_context(RawUpstream(SILENT))
            more = f"  tls: {{ca_file: '{authority.file}'}}"
            text = config(upstream, stream(f"tls://localhost:{port}", more=more))
            proxy = await stack.enter_async_context(Instance(text))
            client = Client()
            await client.connect(f"tls://localhost:{port}", tls=authority.client(), allow_reconnect=False)
            stack.push_async_callback(client.close)
            await fills(stack, proxy, client)
            unknown = config(upstream, stream(f"tls://localhost:{port}"))  # the authorities of the system
            async with Instance(unknown) as other:
                await soon(lambda: lines(caplog.text, "CERTIFICATE_VERIFY_FAILED"))
                assert not other.metric("bridge_connected")


@on_each_loop
async def test_a_cluster_of_which_a_server_dies_serves_on(tmp_path: Path) -> None:
    ports, routes = [free_port(), free_port()], [free_port(), free_port()]
    peers = ",".join(f"nats://127.0.0.1:{route}" for route in routes)

    def clustered(index: int) -> tuple[str, ...]:
        here = f"nats://127.0.0.1:{routes[index]}"
        return ("--cluster_name", "chat", "--cluster", here, "--routes", peers)

    async with AsyncExitStack() as stack:
        dying = stack.enter_context(ExitStack())
        dying.enter_context(nats_server(tmp_path, ports[0], *clustered(0)))
        stack.enter_context(nats_server(tmp_path, ports[1], *clustered(1)))
        upstream = await stack.enter_async_context(RawUpstream(SILENT))
        urls = [f"nats://127.0.0.1:{port}" for port in ports]
        proxy = await stack.enter_async_context(Instance(config(upstream, stream(*urls))))
        await proxy.until(lambda: proxy.metric("bridge_connected"))
        dying.close()
        client = await stack.enter_async_context(publisher(ports[1]))
        await proxy.until(lambda: proxy.metric("bridge_connected"))
        await fills(stack, proxy, client)


def lines(text: str, what: str) -> int:
    """How many lines of a log say `what`."""
    return sum(what in line for line in text.splitlines())


@in_loop
async def test_a_proxy_is_ready_without_nats_and_says_once_each_time_that_it_is_lost(tmp_path: Path) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream(SILENT))
        text = config(upstream, stream(f"nats://127.0.0.1:{port}", more="keepalive: {interval: 200ms}"))
        proxy = stack.enter_context(running_proxy(tmp_path, config=text))
        page = await stack.enter_async_context(await RawClient.connect(proxy.url))
        page.request(f"/events?access_token={TOKENS.issue(7)}", EVENT_SOURCE)
        await page.wait_for(b"connection_confirmed")  # NATS was never there

        async def without_nats(lost: int) -> None:
            await soon(lambda: lines(proxy.log, "no connection to NATS") == lost, within=15.0)
            assert proxy.metric("sse_proxy_bridge_connected", route="events") == 0
            assert await asyncio.to_thread(proxy.admin, "/readyz") == (200, "ready\n")
            pings = page.body.count(b":ping")
            await page.wait_for(lambda page: page.body.count(b":ping") >= pings + 3)

        await without_nats(1)
        for life in (1, 2):
            with nats_server(tmp_path, port):
                await asyncio.to_thread(
                    proxy.wait_for_metric, "sse_proxy_bridge_connected", 1, within=15, route="events"
                )
                async with publisher(port) as client:
                    await send(client, "chat", {"to": 7, "text": f"life {life}"})
                await page.wait_for(f"life {life}".encode())
            await without_nats(life + 1)
        assert lines(proxy.log, "connected to NATS") == 2
        assert page.ending is None


@contextmanager
def frozen(program: Program) -> Iterator[None]:
    """A program that does nothing until the block ends. The kernel still accepts connections for it."""
    os.kill(program.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, program.pid, os.WSTOPPED)  # each of its threads stands still
    try:
        yield
    finally:
        os.kill(program.pid, signal.SIGCONT)


async def pinged(page: RawClient) -> None:
    """Wait for some more pings."""
    pings = page.body.count(b":ping")
    await page.wait_for(lambda page: page.body.count(b":ping") >= pings + 5)


@in_loop
async def test_what_a_slow_server_has_comes_late_and_once(tmp_path: Path) -> None:
    with nats_server(tmp_path) as (program, port):
        async with AsyncExitStack() as stack:
            upstream = await stack.enter_async_context(RawUpstream(SILENT))
            text = stream(f"nats://127.0.0.1:{port}", more="keepalive: {interval: 50ms}")
            proxy = await stack.enter_async_context(Instance(config(upstream, text)))
            clients = await stack.enter_async_context(AsyncExitStack())
            await proxy.until(lambda: proxy.metric("bridge_connected"))
            page = await clients.enter_async_context(
                await proxy.event_source(f"/events?access_token={TOKENS.issue(7)}")
            )
            await page.wait_for(b"connection_confirmed")
            client = await stack.enter_async_context(publisher(port))
            for number in range(3):
                with frozen(program):
                    await client.publish("chat", b'{"to": 7, "text": %d}' % number)
                    await pinged(page)
                    assert b"data: %d\n" % number not in page.body
                await page.wait_for(b"data: %d\n" % number)
            assert [event.data for event in page.events][1:] == ["0", "1", "2"]
            assert proxy.metric("bridge_connected") == 1


@on_each_loop
async def test_a_frozen_server_is_lost_like_one_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seconds in (("_PING_INTERVAL", 0.1), ("_CONNECT_TIMEOUT", 0.3), ("_RECONNECT_WAIT", 0.1)):
        monkeypatch.setattr(connection, name, seconds)
    caplog.set_level(logging.WARNING, "sse_keepalive_proxy.bridge")
    with nats_server(tmp_path) as (program, port):
        async with AsyncExitStack() as stack:
            upstream = await stack.enter_async_context(RawUpstream(SILENT))
            text = stream(f"nats://127.0.0.1:{port}", more="keepalive: {interval: 50ms}")
            clients = await stack.enter_async_context(AsyncExitStack())
            with frozen(program):  # at the start
                proxy = await stack.enter_async_context(Instance(config(upstream, text)))
                page = await clients.enter_async_context(
                    await proxy.event_source(f"/events?access_token={TOKENS.issue(7)}")
                )
                await page.wait_for(b"connection_confirmed")
                await soon(lambda: lines(caplog.text, "no connection to NATS") == 1)
                await pinged(page)
            client = await stack.enter_async_context(publisher(port))
            for lost in (2, 3):
                while b"data: %d\n" % lost not in page.body:  # a server that is only slow may be lost too
                    await send(client, "chat", {"to": 7, "text": lost})
                    await asyncio.sleep(0.05)
                await proxy.until(lambda: proxy.metric("bridge_connected"))
                before = lines(caplog.text, "no connection to NATS")
                with frozen(program):
                    await proxy.until(lambda: not proxy.metric("bridge_connected"))
                    await pinged(page)
                    assert lines(caplog.text, "no connection to NATS") == before + 1
            await proxy.until(lambda: proxy.metric("bridge_connected"))
            assert page.ending is None
