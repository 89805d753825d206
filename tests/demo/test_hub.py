"""Registration and deaths of the stand-in, without sockets (facts.md#notify-server-freeze)."""

from collections.abc import Mapping
from typing import Any

import pytest

from sse_keepalive_proxy.demo.hub import Aborted, Event, Hub, Mode, Outcome, Signal, Stream, cuts_a_character

AT = 1750992346_782538123
CHATS = {2: (2, 3, 4)}
OFFLINE = {"event_type": "status_changed", "user_id": 2, "status": "offline"}
LONG = "十七个汉字就足以让这个服务器中止了吗"  # 18 characters, 54 bytes


def hub(mode: Mode) -> Hub:
    return Hub(mode, CHATS, now=lambda: 0.0, wall_ns=lambda: AT)


def listening(server: Hub, user_id: int) -> Stream:
    """A stream whose response head was sent."""
    stream = server.open(user_id)
    server.begin(stream)
    return stream


def say(server: Hub, content: str = "hi", sender: int = 4) -> Outcome:
    message = {"event_type": "new_message", "chat_id": 2, "sender_id": sender, "content": content}
    return server.handle("fechatter.message.new", message)


def received(content: str) -> Mapping[str, Any]:
    message = {"id": "1", "chat_id": 2, "sender_id": 4, "content": content, "files": [], "timestamp": 1}
    return {"MessageReceived": {"message": message, "chat_id": 2, "recipients": [2, 3, 4]}}


def queued(stream: Stream) -> list[bytes | Signal]:
    return [stream.queue.get_nowait() for _ in range(stream.queue.qsize())]


def test_a_message_with_two_frames_is_written_once_for_each_user() -> None:
    server = hub(Mode.FIXED)
    streams = [server.open(2), server.open(3)]
    server.handle("fechatter.message.new", {"chat_id": 2, "sender_id": 4, "message_id": 1, "content": "hi"})
    server.handle("fechatter.realtime.chat.2", received("hi"))
    for stream in streams:
        for event in queued(stream):
            assert isinstance(event, Event)
            server.wrote(stream, event)
    assert (server.state()["written"], server.state()["written_messages"]) == (4, 2)


# Registration.


def test_a_stream_is_registered_before_its_head_and_gets_what_was_said_meanwhile() -> None:
    server = hub(Mode.SILENT)
    stream = server.open(2)
    assert [say(server, content).delivered for content in ("one", "two")] == [1, 1]
    server.begin(stream)
    first, second, end = queued(stream)
    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    assert (b'"one"' in first, b'"two"' in second, end) == (True, True, Signal.END)
    assert say(server).delivered == 0


def test_an_opening_of_the_same_user_ends_the_first_stream_before_it_is_answered() -> None:
    server = hub(Mode.SILENT)
    first = listening(server, 2)
    server.open(2)
    assert queued(first) == [Signal.END]


def test_the_fixed_build_unregisters_everybody_after_the_confirm_frame() -> None:
    server = hub(Mode.FIXED)
    streams = [listening(server, user_id) for user_id in (2, 3)]
    assert server.of_users({2, 3, 4}) == []
    assert say(server) == Outcome(lost=2)
    assert server.handle("fechatter.realtime.chat.2", received("hi")) == Outcome(lost=3)
    for stream in streams:
        (confirm,) = queued(stream)
        assert isinstance(confirm, bytes)
        assert b"connection_confirmed" in confirm


# The freeze.


@pytest.mark.parametrize("mode", [Mode.SILENT, Mode.FIXED])
def test_a_client_that_leaves_before_its_head_freezes_both_builds(mode: Mode) -> None:
    server = hub(mode)
    other = server.open(3)
    server.close(server.open(2))
    assert say(server, sender=3).lost == 2
    assert server.frozen
    assert queued(other) == [Signal.FREEZE]
    assert say(server) == Outcome(dropped=True)


def test_a_client_that_leaves_after_its_head_freezes_only_the_silent_build() -> None:
    for mode in (Mode.SILENT, Mode.FIXED, Mode.HEALTHY):
        server = hub(mode)
        server.close(listening(server, 2))
        say(server)
        assert server.frozen is (mode is Mode.SILENT)


def test_a_message_for_others_does_not_freeze() -> None:
    server = hub(Mode.SILENT)
    server.close(listening(server, 2))
    say(server, sender=2)  # a sender does not get its own message
    assert not server.frozen


def test_a_user_who_is_set_offline_after_the_client_has_left_freezes_nothing() -> None:
    server = hub(Mode.SILENT)
    server.close(listening(server, 2))
    server.handle("fechatter.user.status", OFFLINE)
    say(server)
    assert not server.frozen


def test_a_frozen_server_is_not_saved_by_the_offline_message() -> None:
    server = hub(Mode.SILENT)
    server.close(listening(server, 2))
    say(server)
    assert server.handle("fechatter.user.status", OFFLINE).dropped
    assert server.frozen


@pytest.mark.parametrize("change", [{"status": "online"}, {"event_type": "renamed"}, {"event_type": None}])
def test_only_a_change_of_status_to_offline_unregisters(change: Mapping[str, Any]) -> None:
    server = hub(Mode.SILENT)
    listening(server, 2)
    assert server.handle("fechatter.user.status", {**OFFLINE, **change}).dropped
    assert say(server).delivered == 1


# The abort.


def test_the_fixed_build_aborts_on_a_message_whose_fiftieth_byte_is_inside_a_character() -> None:
    with pytest.raises(Aborted):
        hub(Mode.FIXED).handle("fechatter.realtime.chat.2", received(LONG))


def test_the_other_builds_and_the_other_subject_bear_such_a_message() -> None:
    for mode in (Mode.SILENT, Mode.HEALTHY):
        hub(mode).handle("fechatter.realtime.chat.2", received(LONG))
    say(hub(Mode.FIXED), LONG)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("十" * 16, False),  # 48 bytes
        ("十" * 17, True),  # 51 bytes
        ("x" * 50 + "十", False),
        ("x" * 49 + "十", True),
        ("x" * 1000, False),
        ("é" * 60, False),  # a character begins at byte 50
        ("x" + "é" * 60, True),
        ("x" * 47 + "十", False),  # exactly 50 bytes
    ],
)
def test_the_log_line_of_fifty_bytes_cuts_a_character(text: str, cut: bool) -> None:
    assert cuts_a_character(text) is cut
