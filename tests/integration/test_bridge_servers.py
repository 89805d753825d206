"""NATS servers with a password, with TLS, and in a cluster: what the bridge does with each."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest
from nats.aio.client import Client

from sse_keepalive_proxy.demo.tokens import new_tokens
from tests.support.authority import Authority
from tests.support.instance import Instance, config
from tests.support.nats import nats_server, publisher, send
from tests.support.programs import free_port
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
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = "  user: me\n  password: wrong-one"
    with nats_server(tmp_path, None, "--user", "me", "--pass", "secret") as (_, port):
        async with RawUpstream(SILENT) as upstream:
            text = config(upstream, stream(f"nats://127.0.0.1:{port}", more=more))
            with caplog.at_level(logging.WARNING, "sse_keepalive_proxy.bridge"):
                async with Instance(text) as proxy:
                    target = f"/events?access_token={TOKENS.issue(7)}"
                    async with await proxy.event_source(target) as page:
                        await page.wait_for(b"connection_confirmed")
                        await asyncio.sleep(1.5)  # a second attempt
                        assert not proxy.metric("bridge_connected")
    lines = [each.getMessage() for each in caplog.records if each.name == "sse_keepalive_proxy.bridge"]
    assert len(lines) == 1
    assert "no connection to NATS" in lines[0]
    assert "Authorization" in lines[0]
    assert "wrong-one" not in caplog.text


@on_each_loop
async def test_a_server_with_tls_is_verified_by_the_given_authority(tmp_path: Path) -> None:
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
                await asyncio.sleep(0.5)
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
