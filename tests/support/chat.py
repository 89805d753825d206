"""What the chat's server publishes on NATS (facts.md#notify-server-builds), and what a page hears of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.support.raw_client import RawClient

__all__ = ["listening_to_nats", "messages", "publish"]


async def publish(
    client: Client, number: int, *, chat: int, members: Sequence[int], sender: int, content: str
) -> None:
    """Publish a message twice, as the real application does. `number` is its id."""
    message = {
        "id": str(number),
        "chat_id": chat,
        "sender_id": sender,
        "content": content,
        "files": [],
        "timestamp": 1750852000,
    }
    realtime = {"MessageReceived": {"message": message, "chat_id": chat, "recipients": list(members)}}
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
    await client.publish(f"fechatter.realtime.chat.{chat}", json.dumps(realtime).encode())
    await client.publish("fechatter.message.new", json.dumps(new).encode())


@asynccontextmanager
async def listening_to_nats(port: int, handle: Callable[[str, Any], object]) -> AsyncIterator[None]:
    """Call `handle` with the subject and the payload of each message that the real server gets."""

    async def received(message: Msg) -> None:
        handle(message.subject, json.loads(message.data))

    client = Client()
    await client.connect(f"nats://127.0.0.1:{port}", max_reconnect_attempts=-1, reconnect_time_wait=0.05)
    try:
        await client.subscribe("fechatter.>", cb=received)
        await client.flush()
        yield
    finally:
        await client.close()


def messages(client: RawClient) -> list[str]:
    """The contents of the messages that a page with `onmessage` has heard, in order."""
    found = []
    for event in client.events:
        if event.type == "message":
            data: dict[str, Any] = json.loads(event.data)
            if data.get("type") == "new_message":
                found.append(data.get("message", data)["content"])
    return found
