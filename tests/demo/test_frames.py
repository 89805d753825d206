"""The frames of notify-server, byte for byte (facts.md#notify-server-frames)."""

import pytest

from sse_keepalive_proxy.demo import frames

AT = 1750992346_782538123  # 2025-06-27T02:45:46.782538123Z


def test_the_confirm_frame() -> None:
    assert frames.connection_confirmed(AT, user_id=2, connection_id="3f0c", connected_chats=13) == (
        b'data: {"event":"Generic","connected_chats":13,"connection_id":"3f0c",'
        b'"message":"SSE connection established successfully","server_time":1750992346,'
        b'"timestamp":"2025-06-27T02:45:46.782538123Z","type":"connection_confirmed","user_id":2}\n'
        b"event: Generic\n\n"
    )


def test_the_heartbeat_frame() -> None:
    assert frames.heartbeat(AT, user_id=2, heartbeat_id=1) == (
        b'data: {"event":"Generic","heartbeat_id":1,"server_time":1750992346,'
        b'"timestamp":"2025-06-27T02:45:46.782538123Z","type":"heartbeat","user_id":2}\n'
        b"event: Generic\n\n"
    )


def test_the_message_frame() -> None:
    assert frames.new_message(AT, chat_id=2, sender_id=3, content="hi") == (
        b'data: {"event":"Generic","chat_id":2,"content":"hi","sender_id":3,'
        b'"timestamp":"2025-06-27T02:45:46.782538123Z","type":"new_message"}\n'
        b"event: Generic\n\n"
    )


def test_the_realtime_frame_has_sorted_keys_at_every_depth() -> None:
    message = {"id": "210", "chat_id": 2, "files": [{"b": 1, "a": 2}]}
    assert frames.message_received(AT, chat_id=2, message=message) == (
        b'data: {"event":"Generic","chat_id":2,"message":{"chat_id":2,"files":[{"a":2,"b":1}],"id":"210"},'
        b'"realtime_source":"fechatter_server","timestamp":"2025-06-27T02:45:46.782538123Z",'
        b'"type":"new_message"}\nevent: Generic\n\n'
    )


def test_text_outside_ascii_is_utf8_and_line_ends_are_escaped() -> None:
    frame = frames.new_message(AT, chat_id=2, sender_id=3, content="你好\u2028\r\n\x1f")
    assert '"content":"你好\u2028\\r\\n\\u001f"'.encode() in frame
    assert frame.count(b"\n") == 3
    assert b"\r" not in frame


@pytest.mark.parametrize(
    ("now_ns", "text"),
    [
        (1750992346_000000000, "2025-06-27T02:45:46Z"),
        (1750992346_780000000, "2025-06-27T02:45:46.780Z"),
        (1750992346_782538000, "2025-06-27T02:45:46.782538Z"),
        (1750992346_782538123, "2025-06-27T02:45:46.782538123Z"),
        (1750992346_000000001, "2025-06-27T02:45:46.000000001Z"),
    ],
)
def test_times_have_as_many_decimals_as_they_need(now_ns: int, text: str) -> None:
    assert frames.rfc3339(now_ns) == text
