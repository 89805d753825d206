"""The exact bytes of notify-server's event stream (facts.md#notify-server-frames).

Pure: no I/O. The time is an argument.

Every frame is a `data:` line, then `event: Generic`, then a blank line. The JSON is compact and has
`"event":"Generic"` first and its other keys, at every depth, in alphabetical order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "PING",
    "connection_confirmed",
    "generic",
    "heartbeat",
    "message_received",
    "new_message",
    "rfc3339",
]

PING = b": ping\n\n"
"""The keep-alive comment of axum, after 25 s without an event."""

_SECOND = 1_000_000_000


def rfc3339(now_ns: int) -> str:
    """Format nanoseconds since the epoch as UTC time, with 0, 3, 6 or 9 decimals as needed."""
    seconds, fraction = divmod(now_ns, _SECOND)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    for digits in (0, 3, 6, 9):
        unit = 10 ** (9 - digits)
        if fraction % unit == 0:
            break
    return f"{whole}.{fraction // unit:0{digits}d}Z" if digits else f"{whole}Z"


def generic(fields: Mapping[str, Any]) -> bytes:
    """Return a frame with these JSON fields. Text outside ASCII is UTF-8."""
    ordered = {"event": "Generic", **{name: _sorted(fields[name]) for name in sorted(fields)}}
    data = json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + data.encode("utf-8", "replace") + b"\nevent: Generic\n\n"


def connection_confirmed(now_ns: int, *, user_id: int, connection_id: str, connected_chats: int) -> bytes:
    """Return the first frame of the fixed build."""
    return generic(
        {
            "connected_chats": connected_chats,
            "connection_id": connection_id,
            "message": "SSE connection established successfully",
            "server_time": now_ns // _SECOND,
            "timestamp": rfc3339(now_ns),
            "type": "connection_confirmed",
            "user_id": user_id,
        }
    )


def heartbeat(now_ns: int, *, user_id: int, heartbeat_id: int) -> bytes:
    """Return the fixed build's heartbeat, sent every 30 s. `heartbeat_id` begins at 1 for each stream."""
    return generic(
        {
            "heartbeat_id": heartbeat_id,
            "server_time": now_ns // _SECOND,
            "timestamp": rfc3339(now_ns),
            "type": "heartbeat",
            "user_id": user_id,
        }
    )


def new_message(now_ns: int, *, chat_id: int, sender_id: int, content: str) -> bytes:
    """Return the frame of both builds for NATS `fechatter.message.new`. It has no message id."""
    return generic(
        {
            "chat_id": chat_id,
            "content": content,
            "sender_id": sender_id,
            "timestamp": rfc3339(now_ns),
            "type": "new_message",
        }
    )


def message_received(now_ns: int, *, chat_id: int, message: Mapping[str, Any]) -> bytes:
    """Return the frame of the fixed build for NATS `fechatter.realtime.…` with `MessageReceived`."""
    return generic(
        {
            "chat_id": chat_id,
            "message": message,
            "realtime_source": "fechatter_server",
            "timestamp": rfc3339(now_ns),
            "type": "new_message",
        }
    )


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value
