"""`bridge.mode: observe`: it counts what the stand-in of notify-server says, and changes no byte."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from sse_keepalive_proxy.demo.hub import Mode
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.demo.tokens import new_tokens
from tests.integration.test_bridge import bridged, counted, joined, message, places, read
from tests.integration.test_bridge_notify_server import chats
from tests.support.chat import listening_to_nats, publish
from tests.support.instance import Instance, config
from tests.support.nats import nats_server, publisher, send
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, RawUpstream, chunk, response, stream_head
from tests.support.running import on_each_loop, on_loop, soon

MESSAGES = 400
TOKENS = new_tokens()
STREAM = """\
identity: {{verify: upstream}}
reconnect: {{when: always, delay: 20ms}}
bridge:
  servers: nats://127.0.0.1:{port}
  mode: observe
  grace: 10m
  subscriber: claim:user.id
  subjects:
    - subject: fechatter.realtime.chat.*
      when: MessageReceived
      recipients: MessageReceived.recipients
      keys:
        - MessageReceived.message.id
        - "[MessageReceived.chat_id, MessageReceived.message.sender_id, MessageReceived.message.content]"
      upstream_keys: [message.id, "[chat_id, sender_id, content]"]
"""


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with nats_server(tmp_path_factory.mktemp("nats")) as (_, port):
        yield port


def end_grace(proxy: Instance) -> None:
    """Do what is done at the end of `grace`: upstream has missed all that it has not delivered."""
    for place in places(proxy):
        place.write_due(math.inf)


@pytest.mark.parametrize("build", list(Mode))
def test_observe_counts_what_the_server_says_it_has_delivered(build: Mode, tmp_path: Path) -> None:
    on_loop("uvloop", _agree(build, tmp_path), within=90.0)


async def _agree(build: Mode, folder: Path) -> None:
    members = chats()
    notify, heard = NotifyServer(build, chats=members), list[str]()

    def hear(subject: str, payload: Any) -> None:
        heard.append(subject)
        notify.publish(subject, payload)

    async with AsyncExitStack() as stack:
        await notify.start()
        stack.push_async_callback(notify.stop)
        _, port = stack.enter_context(nats_server(folder))
        proxy = await stack.enter_async_context(Instance(config(notify.url, STREAM.format(port=port))))
        await stack.enter_async_context(listening_to_nats(port, hear))
        await proxy.until(lambda: proxy.metric("bridge_connected"))
        pages: list[RawClient] = []
        for user in sorted({user for users in members.values() for user in users}):
            target = f"/events?access_token={notify.token(user)}"
            pages.append(await stack.enter_async_context(await proxy.event_source(target)))
        for page in pages:
            await page.wait_for(b"connection_confirmed", within=20.0)
        client = await stack.enter_async_context(publisher(port))
        expected = 0
        for number in range(MESSAGES):
            chat = number % len(members) + 1
            users = members[chat]
            await publish(
                client, number, chat=chat, members=users, sender=users[0], content=f"message {number}"
            )
            expected += len(users)
            if number % 100 == 50:
                notify.close_streams()  # all are opened again while messages go on
            if not number % 10:
                await client.flush()
                await asyncio.sleep(0.02)
        await client.flush()

        def frames() -> int:
            return sum(page.body.count(b'"type":"new_message"') for page in pages)

        def settled() -> bool:
            """Both have read every message, and what the server has sent is at the pages."""
            streams = notify.hub.streams
            waiting = sum(place.snapshot()["waiting"] for place in places(proxy))
            return (
                len(heard) == 2 * MESSAGES
                and proxy.metric("bridge_events_total", outcome="delivered") + waiting == expected
                and len(streams) == len(pages)
                and all(stream.answered and stream.queue.empty() for stream in streams)
                and frames() == notify.state()["written"]
            )

        await soon(settled, within=60.0)
        end_grace(proxy)
        state, counts = notify.state(), counted(proxy)
        assert counts["delivered"] == state["written_messages"]
        assert counts["delivered"] + counts["missed"] == expected
        assert set(counted(proxy)) <= {"delivered", "missed"}
        assert 0 < state["written_messages"] < expected  # it has delivered some, and not all


@on_each_loop
async def test_observe_counts_what_comes_while_upstream_opens_the_stream(nats: int) -> None:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream([GOT_REQUEST]))
        stream = bridged(nats, "observe", "10m")
        proxy = await stack.enter_async_context(Instance(config(upstream, stream)))
        await proxy.until(lambda: proxy.metric("bridge_connected"))
        client = await stack.enter_async_context(publisher(nats))
        clients = await stack.enter_async_context(AsyncExitStack())
        for opened in range(2):
            user = 7 + opened
            target = f"/events?access_token={TOKENS.issue(user)}"
            page = await clients.enter_async_context(await proxy.event_source(target))
            server = await upstream.connection(opened)
            for number in (1, 2):
                await send(client, "chat.1", message(number, user))
            await read(proxy, client)
            if opened:
                await server.send(response("401 Unauthorized", b"no"))
                await page.wait_response()
            else:
                await server.send(stream_head() + chunk(b'data: {"id": 1}\n\n'))
                await proxy.until(lambda: counted(proxy) == {"delivered": 1, "no_subscriber": 1})
                end_grace(proxy)
                await proxy.until(lambda: counted(proxy).get("missed") == 1)
        await send(client, "chat.1", message(3))
        await read(proxy, client)
        end_grace(proxy)
        counts = {"delivered": 1, "missed": 2, "no_subscriber": 3}  # those of `read`, none of the second user
        await proxy.until(lambda: counted(proxy) == counts)


def blocks(draw: random.Random) -> list[bytes]:
    """Blocks of every kind, some of them for the messages with the same number."""
    kinds = [
        b'data: {"id": %d}\n\n',
        b'event: Generic\r\ndata: {"text": "message %d"}\r\n\r\n',
        b"id: %d\ndata: no json\n\n",
        b": comment %d\n\n",
        b'data: {"id":\ndata: %d}\nretry: 9\n\n',
        b"data: [%d\n\n\n",
    ]
    return [draw.choice(kinds) % number for number in range(300)]


async def played(nats: int, stream: str) -> bytes:
    """What a client gets behind its confirm, while the messages of the blocks are published."""
    draw = random.Random(17)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream([GOT_REQUEST, stream_head()]))
        proxy = await stack.enter_async_context(Instance(config(upstream, stream)))
        clients = await stack.enter_async_context(AsyncExitStack())
        client = await stack.enter_async_context(publisher(nats))
        observed = "bridge" in stream
        if observed:
            await proxy.until(lambda: proxy.metric("bridge_connected"))
        page = await joined(clients, proxy)
        server, sent = await upstream.connection(), b"".join(blocks(draw))
        begin, at, published = len(page.body), 0, 0
        while at < len(sent):
            size = draw.randrange(1, 120)
            await server.send(chunk(sent[at : at + size]))
            at += size
            for _ in range(draw.randrange(4)):
                await client.publish("chat.1", json.dumps(message(published)).encode())
                published += 1
            await client.flush()
        await page.wait_for(lambda page: len(page.body) >= begin + len(sent))
        if observed:
            await proxy.until(lambda: sum(counted(proxy).values()) == published)
            assert set(counted(proxy)) == {"delivered", "missed"}
        assert page.body[begin:] == sent
        return page.body[begin:]


@on_each_loop
async def test_a_client_gets_the_same_bytes_with_observe_as_without_a_bridge(nats: int) -> None:
    assert await played(nats, bridged(nats, "observe")) == await played(nats, "identity: {verify: upstream}")
