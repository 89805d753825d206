"""The bridge of `config.example.yaml`, with what notify-server's NATS carries and what its builds send
(facts.md#notify-server-builds).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from sse_keepalive_proxy.config import load
from sse_keepalive_proxy.demo import frames
from sse_keepalive_proxy.stream.bridge_mapping import Mapping
from sse_keepalive_proxy.stream.policy import BridgeMode
from sse_keepalive_proxy.wire.block import parse
from tests.config.test_example import EXAMPLE

NOW = 1_750_852_000_000_000_000  # nanoseconds

MESSAGE: dict[str, Any] = {
    "id": "210",
    "chat_id": 2,
    "sender_id": 3,
    "content": "hi",
    "files": [],
    "timestamp": 1750852000,
}
RECEIVED = {"MessageReceived": {"message": MESSAGE, "chat_id": 2, "recipients": [2, 3, 4]}}
READ = {
    "MessageRead": {"message_id": 210, "chat_id": 2, "reader_id": 3, "read_at": "2025-06-25T11:46:41+00:00"}
}
STARTED = {"TypingStarted": {"chat_id": 2, "user_id": 3, "user_name": "Chen"}}
STOPPED = {"TypingStopped": {"chat_id": 2, "user_id": 3}}
PRESENCE = {"UserPresence": {"user_id": 3, "status": "online", "last_seen": None}}

CHAT, READS, TYPING, ONLINE = range(4)  # the subjects, by their places

_EVENTS = load(EXAMPLE, environ={}).settings.routes[0]
assert _EVENTS.stream is not None
_BRIDGE = _EVENTS.stream.bridge
assert _BRIDGE is not None


@pytest.fixture
def mapping() -> Mapping:
    """The mapping, after a message that says who is in the chat."""
    assert _BRIDGE is not None
    mapping = Mapping(_BRIDGE.policy.subjects)
    mapping.read(CHAT, json.dumps(RECEIVED).encode())
    return mapping


def test_its_subjects_are_those_of_the_chat() -> None:
    assert _BRIDGE is not None
    assert _BRIDGE.mode is BridgeMode.REPLACE
    assert [subject.subject for subject in _BRIDGE.subjects] == [
        "fechatter.realtime.chat.*",
        "fechatter.realtime.chat.*.read",
        "fechatter.realtime.chat.*.typing",
        "fechatter.realtime.user.*.presence",
    ]
    assert [subject.example for subject in _BRIDGE.subjects] == [RECEIVED, READ, STARTED, PRESENCE]


@pytest.mark.parametrize(
    ("place", "payload", "recipients", "sent"),
    [
        (
            CHAT,
            RECEIVED,
            {"2", "3", "4"},
            (
                b'data: {"type":"new_message","chat_id":2,"message":{"id":"210","chat_id":2,"sender_id":3,'
                b'"content":"hi","files":[],"timestamp":1750852000}}\n\n'
                b'event: NewMessage\ndata: {"id":"210","chat_id":2,"sender_id":3,"content":"hi","files":[],'
                b'"created_at":"2025-06-25T11:46:40Z"}\n\n'
            ),
        ),
        (
            READS,
            READ,
            {"2", "3", "4"},
            (
                b'data: {"type":"message_read","message_id":210,"chat_id":2,"reader_id":3,'
                b'"read_at":"2025-06-25T11:46:41+00:00"}\n\n'
                b'event: MessageRead\ndata: {"message_id":210,"read_at":"2025-06-25T11:46:41+00:00"}\n\n'
            ),
        ),
        (
            TYPING,
            STARTED,
            {"2", "4"},
            (
                b'data: {"type":"typing_started","chat_id":2,"user_id":3,"user_name":"Chen"}\n\n'
                b"event: TypingStatus\n"
                b'data: {"chat_id":2,"user_id":3,"user_name":"Chen","is_typing":true}\n\n'
            ),
        ),
        (
            TYPING,
            STOPPED,
            {"2", "4"},
            (
                b'data: {"type":"typing_stopped","chat_id":2,"user_id":3}\n\n'
                b'event: TypingStatus\ndata: {"chat_id":2,"user_id":3,"is_typing":false}\n\n'
            ),
        ),
        (
            ONLINE,
            PRESENCE,
            {"2", "4"},
            (
                b'data: {"type":"user_presence","user_id":3,"status":"online","last_seen":null}\n\n'
                b'event: UserPresence\ndata: {"user_id":3,"status":"online","last_seen":null}\n\n'
            ),
        ),
    ],
    ids=["message", "read", "typing", "typing no more", "presence"],
)
def test_both_pages_hear_what_nats_carries(
    mapping: Mapping, place: int, payload: dict[str, Any], recipients: set[str], sent: bytes
) -> None:
    found = mapping.read(place, json.dumps(payload).encode())
    assert found is not None
    assert found.recipients == recipients
    assert found.frames == sent


def of_healthy(kind: str, payload: dict[str, Any]) -> bytes:
    """What a correct server sends for one of the smaller messages."""
    ((_, fields),) = payload.items()
    return frames.generic({**fields, "timestamp": frames.rfc3339(NOW), "type": kind})


@pytest.mark.parametrize(
    ("place", "payload", "event"),
    [
        (CHAT, RECEIVED, frames.message_received(NOW, chat_id=2, message=MESSAGE)),
        (CHAT, RECEIVED, frames.new_message(NOW, chat_id=2, sender_id=3, content="hi")),
        (READS, READ, of_healthy("message_read", READ)),
        (TYPING, STARTED, of_healthy("typing_started", STARTED)),
        (TYPING, STOPPED, of_healthy("typing_stopped", STOPPED)),
        (ONLINE, PRESENCE, of_healthy("user_presence", PRESENCE)),
    ],
)
def test_an_event_of_the_server_for_the_same_message_is_recognised(
    mapping: Mapping, place: int, payload: dict[str, Any], event: bytes
) -> None:
    found = mapping.read(place, json.dumps(payload).encode())
    assert found is not None
    assert set(mapping.upstream_keys(event)) & set(found.keys)


def test_other_messages_and_events_are_not_taken_for_one(mapping: Mapping) -> None:
    others = [(CHAT, READ), (READS, RECEIVED), (TYPING, PRESENCE), (ONLINE, {"UserJoinedChat": {}})]
    for place, payload in others:
        assert mapping.read(place, json.dumps(payload).encode()) is None
    confirm = frames.connection_confirmed(NOW, user_id=3, connection_id="x", connected_chats=1)
    for event in (confirm, frames.heartbeat(NOW, user_id=3, heartbeat_id=1), frames.PING):
        assert parse(event)
        assert mapping.upstream_keys(event) == ()
