"""The bridge beside the stand-in of notify-server. Both get the same messages of a real nats-server,
published as the real application does it. Every stream ends with exactly the messages for it.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sse_keepalive_proxy.demo.hub import Mode
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from tests.support.chat import listening_to_nats, messages, publish
from tests.support.instance import Instance, config
from tests.support.nats import nats_server, publisher
from tests.support.programs import free_port
from tests.support.raw_client import RawClient
from tests.support.running import on_loop, soon

USERS, CHATS, MESSAGES = 40, 10, 600
STREAM = """\
identity: {{verify: upstream}}
stall: {{sign_of_life: events, ignore: {{types: [heartbeat, connection_confirmed]}}}}
reconnect: {{when: always, delay: 50ms, max_delay: 1s}}
share: {{by: claim:user.id}}
leave: {{hold: 1m}}
rewrite: {{unname: [Generic]}}
max_age: off
bridge:
  servers: nats://127.0.0.1:{port}
  mode: {mode}
  grace: 500ms
  subscriber: claim:user.id
  subjects:
    - subject: fechatter.realtime.chat.*
      when: MessageReceived
      recipients: MessageReceived.recipients
      keys:
        - MessageReceived.message.id
        - "[MessageReceived.chat_id, MessageReceived.message.sender_id, MessageReceived.message.content]"
      upstream_keys: [message.id, "[chat_id, sender_id, content]"]
      data: "{{type: `new_message`, chat_id: MessageReceived.chat_id, message: MessageReceived.message}}"
"""


def chats() -> dict[int, list[int]]:
    """Some users in each chat."""
    draw = random.Random(17)
    return {chat: draw.sample(range(1, USERS + 1), USERS // 5) for chat in range(1, CHATS + 1)}


@pytest.mark.parametrize("mode", ["fill", "replace"])
@pytest.mark.parametrize("build", list(Mode))
def test_every_stream_ends_with_exactly_its_messages(build: Mode, mode: str, tmp_path: Path) -> None:
    on_loop("uvloop", _every_message(build, mode, tmp_path), within=120.0)


async def _every_message(build: Mode, mode: str, folder: Path) -> None:
    port, members = free_port(), chats()
    notify = NotifyServer(build, chats=members)
    expected: dict[int, list[str]] = {user: [] for user in range(1, USERS + 1)}
    async with AsyncExitStack() as stack:
        await notify.start()
        stack.push_async_callback(notify.stop)
        server = AsyncExitStack()
        stack.push_async_callback(server.aclose)
        server.enter_context(nats_server(folder, port))
        proxy = await stack.enter_async_context(
            Instance(config(notify.url, STREAM.format(port=port, mode=mode)))
        )
        await stack.enter_async_context(listening_to_nats(port, notify.publish))
        await proxy.until(lambda: proxy.metric("bridge_connected"))
        pages: dict[int, RawClient] = {}
        for user in expected:
            target = f"/events?access_token={notify.token(user)}"
            pages[user] = await stack.enter_async_context(await proxy.event_source(target))
        for page in pages.values():
            await page.wait_for(b"connection_confirmed", within=20.0)
        for half in range(2):
            async with publisher(port) as client:
                for number in range(half * MESSAGES // 2, (half + 1) * MESSAGES // 2):
                    chat, content = number % CHATS + 1, f"message {number}"
                    in_chat = members[chat]
                    await publish(
                        client, number, chat=chat, members=in_chat, sender=in_chat[0], content=content
                    )
                    for user in in_chat:
                        expected[user].append(content)
                    if not number % 10:
                        await client.flush()
                        await asyncio.sleep(0.01)
                await client.flush()
            for user, page in pages.items():
                await page.wait_for(
                    lambda page, user=user: len(messages(page)) >= len(expected[user]), within=30.0
                )
            if not half:  # NATS dies between the two halves, and comes back
                await server.aclose()
                await proxy.until(lambda: not proxy.metric("bridge_connected"))
                server.enter_context(nats_server(folder, port))
                await proxy.until(lambda: proxy.metric("bridge_connected"))
                await soon(lambda: notify.hub.streams, within=10.0)
        await asyncio.sleep(1.0)  # late copies
        for user, page in pages.items():
            assert sorted(messages(page)) == sorted(expected[user])
            assert b"stream_recovered" not in page.body or build is not Mode.FIXED
        if mode == "replace" or build is Mode.FIXED:  # the bridge delivers all of them
            assert all(messages(page) == expected[user] for user, page in pages.items())
        assert proxy.metric("bridge_events_total", outcome="invalid") == 0
