"""The latest messages of a stream: what is kept for whom, and from which position on."""

from __future__ import annotations

from sse_keepalive_proxy.stream.bridging import Message
from sse_keepalive_proxy.stream.recent import Recent


def message(position: int, *recipients: str, size: int = 10) -> Message:
    return Message(frozenset(recipients or ("7",)), (), b"x" * size, position=position)


def positions(recent: Recent, recipient: str, position: int, now: float = 0.0) -> list[int]:
    return [each.position for each in recent.after(recipient, position, now)]


def test_a_recipient_gets_its_own_messages_behind_the_position_in_their_order() -> None:
    recent = Recent(60.0)
    recent.add(message(1), 0.0)
    recent.add(message(2, "8"), 0.0)
    recent.add(message(5, "7", "8"), 0.0)
    assert positions(recent, "7", 0) == [1, 5]
    assert positions(recent, "7", 1) == [5]
    assert positions(recent, "8", 2) == [5]
    assert positions(recent, "8", 5) == positions(recent, "9", 0) == []
    assert recent.floor == 0


def test_messages_that_are_too_old_are_forgotten_and_raise_the_floor() -> None:
    recent = Recent(60.0)
    recent.add(message(3), 0.0)
    recent.add(message(4), 50.0)
    assert positions(recent, "7", 0, 61.0) == [4]
    assert recent.floor == 3
    assert positions(recent, "7", 0, 111.0) == []
    assert (recent.floor, recent.size) == (4, 0)


def test_above_its_size_the_oldest_are_forgotten() -> None:
    forgotten: list[int] = []
    recent = Recent(60.0, 5000, lambda: forgotten.append(1))
    for position in range(1, 6):
        recent.add(message(position, size=1000), 0.0)
    assert positions(recent, "7", 0) == [3, 4, 5]
    assert recent.floor == 2
    assert recent.size <= 5000
    assert positions(recent, "7", 0, 70.0) == []
    assert len(forgotten) == 2  # those that were too old do not count


def test_a_stream_that_was_made_again_has_its_own_messages_only() -> None:
    recent = Recent(60.0)
    recent.add(message(100), 0.0)
    recent.add(message(1), 0.0)
    recent.add(message(1), 0.0)  # one message can have several subjects
    assert positions(recent, "7", 0) == [1, 1]
    assert recent.floor == 0
