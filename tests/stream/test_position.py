"""What a client has of a stream: its form in an id, and what the client misses when it comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.stream.bridging import Fate, Key, Matcher, Message, Outcome
from sse_keepalive_proxy.stream.policy import BridgeMode
from sse_keepalive_proxy.stream.position import MOST, Position, mark
from sse_keepalive_proxy.stream.replay_log import position_in

GRACE = 1.0


def key(number: int) -> Key:
    return (0, 0, str(number))


def message(position: int, keys: tuple[Key, ...] | None = None) -> Message:
    """A message with its position as its id, and as its frames."""
    frames = b"data: %d\n\n" % position
    return Message(frozenset("7"), (key(position),) if keys is None else keys, frames, position=position)


def missed(position: Position, *numbers: int, later: tuple[int, ...] = ()) -> list[tuple[int, Position]]:
    return [(each.position, then) for each, then in position.missed(map(message, numbers), later)]


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (Position(0), b"0"),
        (Position(4711), b"4711"),
        (Position(4711, (4708, 4710)), b"4711.3.1"),
        (Position(4711, (4711,), (b"9f86d0818847",)), b"4711.0_9f86d0818847"),
        (Position(10**18 - 1, tuple(range(MOST)), (b"0123456789ab",) * MOST), None),
    ],
)
def test_a_position_is_read_as_it_was_written(position: Position, text: bytes | None) -> None:
    assert text in (None, position.encoded)
    assert position_in(b"skp-0123abcd-7-" + position.encoded) == position


def test_a_position_of_nobody_lacks_something_before_every_stream() -> None:
    forged = position_in(b"skp-0123abcd-7-3.4711")
    assert forged is not None
    assert forged.first < 0


def test_with_too_many_exceptions_what_is_lacking_is_never_among_what_a_client_has() -> None:
    lacks = range(2, 2 * MOST + 10, 2)
    position = Position.of(1000, lacks, [b"%012x" % number for number in range(MOST + 1)])
    assert position == Position(
        2 * MOST + 1, tuple(lacks[:MOST]), tuple(b"%012x" % number for number in range(1, MOST + 1))
    )


def test_a_key_has_the_same_mark_everywhere_and_no_text_is_too_strange() -> None:
    assert mark((0, 1, "hi")) == b"0f807f094ed9"
    assert mark((0, 1, "hi")) != mark((1, 0, "hi"))
    assert len(mark((0, 1, "\ud800"))) == 12


def test_a_client_gets_what_is_lacking_and_what_is_behind() -> None:
    assert missed(Position(3), 4, 6) == [(4, Position(4)), (6, Position(6))]
    assert missed(Position(5, (2, 4)), 2, 3, 4, 5, 6) == [
        (2, Position(5, (4,))),
        (4, Position(5)),
        (6, Position(6)),
    ]


def test_what_it_gets_in_another_way_is_lacking_until_then() -> None:
    assert missed(Position(3), 4, 5, 6, later=(5, 9)) == [(4, Position(4)), (6, Position(6, (5,)))]


def test_an_event_of_upstream_stands_for_the_first_message_with_its_key() -> None:
    ahead = (mark(key(5)), mark(key(9)))
    first, second = message(5), replace(message(5), position=7)
    found = Position(3, (), ahead).missed([message(4), first, message(6), second], ())
    assert [(each.position, then) for each, then in found] == [
        (4, Position(4, (), ahead)),
        (6, Position(6, (), ahead[1:])),
        (7, Position(7, (), ahead[1:])),
    ]


def test_an_event_of_upstream_may_stand_for_a_message_that_nobody_had_handled_yet() -> None:
    assert missed(Position(5, (3, 4), (mark(key(4)),)), 3, 4, 6) == [(3, Position(5)), (6, Position(6))]


def test_a_message_with_two_subjects_is_got_with_both() -> None:
    found = Position(3).missed([message(4), message(4)], ())
    assert [then for _, then in found] == [Position(4, (4,)), Position(4)]


def test_a_message_without_frames_is_never_missed() -> None:
    assert Position(3).missed([replace(message(4), frames=b"")], ()) == []


class Story:
    """A client of a stream whose upstream delivers in an order of its own, and of proxies that end."""

    def __init__(self) -> None:
        self.now, self.published = 0.0, 0
        self.events: set[int] = set()  # of upstream
        self.got: list[int] = []
        self.position = Position(0)
        self.matcher = Matcher(BridgeMode.FILL, GRACE)

    def write(self, number: int) -> None:
        self.got.append(number)
        ahead = [mark(each) for each in self.matcher.ahead]
        self.position = Position.of(self.published, self.matcher.waiting, ahead)

    def publish(self) -> None:
        self.published += 1
        outcome, _ = self.matcher.message(replace(message(self.published), at=self.now))
        assert outcome in (None, Outcome.DELIVERED)

    def event(self, number: int) -> None:
        """Upstream delivers what is published, also before NATS does."""
        if number > 0 and number not in self.events:
            self.events.add(number)
            if self.matcher.event((key(number),), b"", self.now) is not Fate.DROPPED:
                self.write(number)

    def wait(self) -> None:
        self.now += GRACE
        for each in self.matcher.due(self.now):
            assert isinstance(each, Message)
            self.write(each.position)

    def restart(self, most: int) -> None:
        """The client comes back to another proxy, and gets at most so much of what it has missed."""
        self.published = max(self.published, *self.events, 0)
        self.events |= set(range(1, self.published + 1))  # the others are lost
        behind = map(message, range(self.position.first + 1, self.published + 1))
        found = self.position.missed(behind, ())
        for each, then in found[:most]:
            self.got.append(each.position)
            self.position = then
        if len(found) > most:
            self.restart(len(found))
        self.matcher = Matcher(BridgeMode.FILL, GRACE)


OPERATIONS = st.lists(
    st.one_of(
        st.just(("publish", 0)),
        st.just(("wait", 0)),
        st.tuples(st.just("event"), st.integers(-5, 3)),  # seen from the last message
        st.tuples(st.just("restart"), st.integers(0, 3)),
    ),
    min_size=10,
    max_size=40,
)


@settings(max_examples=300)
@given(OPERATIONS)
def test_through_all_restarts_a_client_gets_each_message_once(operations: list[tuple[str, int]]) -> None:
    story = Story()
    for name, value in operations:
        match name:
            case "publish":
                story.publish()
            case "event":
                story.event(story.published + value)
            case "restart":
                story.restart(value)
            case _:
                story.wait()
    story.wait()
    story.restart(1)
    assert sorted(story.got) == list(range(1, story.published + 1))
