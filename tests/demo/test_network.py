"""The network that the demo can take away: bytes pass in both directions, or nothing does."""

from __future__ import annotations

import asyncio
import contextlib

from sse_keepalive_proxy.demo.network import Network
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from tests.support.looping import in_loop
from tests.support.programs import free_port
from tests.support.raw_client import RawClient
from tests.support.stand_in import event_source, listening, say


@in_loop
async def test_a_stream_passes_until_the_network_is_down_and_a_new_one_when_it_is_up_again() -> None:
    notify, network = NotifyServer("healthy"), Network()
    await notify.start()
    await network.start(notify.port)
    for _ in range(2):
        async with await event_source(network.url, notify) as client:
            await listening(notify)
            say(notify, "hi")
            await client.wait_for(b'"content":"hi"')
            network.turn(up=False)
            await client.wait_end()
        await notify.wait_open(0)  # upstream has noticed
        async with await RawClient.connect(network.url) as late:
            late.request("/health")
            await late.wait_end()
            assert late.received == b""
        network.turn(up=True)
    network.stop()
    await notify.stop()


@in_loop
async def test_an_end_of_either_side_reaches_the_other_one() -> None:
    notify, network = NotifyServer("silent"), Network()
    await notify.start()
    await network.start(notify.port)
    async with await event_source(network.url, notify) as client:
        await listening(notify)
    await notify.wait_open(0)
    async with await event_source(network.url, notify) as client:
        await listening(notify)
        notify.reset_streams()
        await client.wait_end()
    network.stop()
    await notify.stop()


@in_loop
async def test_without_a_server_a_connection_ends_at_once() -> None:
    network = Network()
    await network.start(free_port())
    reader, writer = await asyncio.open_connection("127.0.0.1", int(network.url.rpartition(":")[2]))
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    network.stop()
