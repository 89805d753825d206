"""The messages of a chat on NATS, as its server publishes them and notify-server gets them
(facts.md#notify-server-nats).

Needs the extra `nats`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from sse_keepalive_proxy.bridge.connection import flushed

__all__ = ["listening_to_nats", "publish", "spoken"]


def spoken(
    number: int, *, chat: int, members: Sequence[int], sender: int, content: str
) -> dict[str, dict[str, Any]]:
    """Return the two values that are published for a message, by their subjects. `number` is its id."""
    message = {
        "id": str(number),
        "chat_id": chat,
        "sender_id": sender,
        "content": content,
        "files": [],
        "timestamp": 1750852000,
    }
    new = {
        "event_type": "new_message",
        "chat_id": chat,
        "sender_id": sender,
        "sender_name": "Ann",
        "content": content,
        "files": [],
        "timestamp": "2026-11-25T00:00:00Z",
        "message_id": number,
        "workspace_id": 1,
    }
    received = {"message": message, "chat_id": chat, "recipients": list(members)}
    return {
        f"fechatter.realtime.chat.{chat}": {"MessageReceived": received},
        "fechatter.message.new": new,
    }


async def publish(
    client: Client, number: int, *, chat: int, members: Sequence[int], sender: int, content: str
) -> None:
    """Publish a message twice, as the real application does. `number` is its id."""
    values = spoken(number, chat=chat, members=members, sender=sender, content=content)
    for subject, value in values.items():
        await client.publish(subject, json.dumps(value).encode())


@asynccontextmanager
async def listening_to_nats(port: int, handle: Callable[[str, Any], object]) -> AsyncIterator[Client]:
    """Call `handle` with the subject and the payload of each message that the real server gets from the NATS
    on a port of loopback. Yield the connection when it has subscribed.
    """

    async def received(message: Msg) -> None:
        handle(message.subject, json.loads(message.data))

    client = Client()
    await client.connect(
        f"nats://127.0.0.1:{port}",
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.05,  # type: ignore[arg-type]  # nats-py sleeps for so long
    )
    try:
        await client.subscribe("fechatter.>", cb=received)
        await flushed(client)
        yield client
    finally:
        await client.close()
