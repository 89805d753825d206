"""What the chat's server publishes on NATS (facts.md#notify-server-builds), and what a page hears of it."""

from __future__ import annotations

import json
from typing import Any

from sse_keepalive_proxy.demo.chat import listening_to_nats, publish, spoken
from tests.support.raw_client import RawClient

__all__ = ["listening_to_nats", "messages", "publish", "spoken"]


def messages(client: RawClient) -> list[str]:
    """The contents of the messages that a page with `onmessage` has heard, in order."""
    found = []
    for event in client.events:
        if event.type == "message":
            data: dict[str, Any] = json.loads(event.data)
            if data.get("type") == "new_message":
                found.append(data.get("message", data)["content"])
    return found
