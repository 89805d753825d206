"""The matcher against a plain model, and its rules one by one. The clock is an argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.stream.bridging import (
    MOST_AHEAD,
    Fate,
    Key,
    Matcher,
    Message,
    Outcome,
    remembered_for,
)
from sse_keepalive_proxy.stream.policy import BridgeMode

GRACE = 1.0
FILL, REPLACE, OBSERVE = BridgeMode.FILL, BridgeMode.REPLACE, BridgeMode.OBSERVE


def message(number: int, text: str = "", at: float = 0.0) -> Message:
    """A message with an id, and with its text as a second key."""
    keys = by_id(number), by_text(text or str(number))
    return Message(frozenset({"7"}), keys, b"data: %d\n\n" % number, at=at)


def numbers(due: Sequence[Message | bytes]) -> list[int]:
    """The numbers of messages, or of blocks."""
    return [int((each.frames if isinstance(each, Message) else each)[6:]) for each in due]


def by_id(number: int) -> Key:
    return (0, 0, str(number))


def by_text(text: str) -> Key:
    return (0, 1, text)


def matcher(mode: BridgeMode = FILL, most: int = 100) -> Matcher:
    return Matcher(mode, GRACE, most)


def test_a_message_waits_for_upstream_and_is_due_after_the_grace() -> None:
    known = matcher()
    assert known.message(message(1, at=10.0)) == (None, 0)
    assert known.due(10.9) == []
    assert numbers(known.due(11.0)) == [1]
    assert known.due(20.0) == []


def test_an_event_of_upstream_delivers_the_message_that_waits() -> None:
    known = matcher()
    known.message(message(1))
    assert known.event([by_id(1)], b"", 0.5) is Fate.DELIVERS
    assert known.due(2.0) == []


@pytest.mark.parametrize("mode", [FILL, REPLACE])
def test_a_copy_that_comes_after_the_filling_is_dropped(mode: BridgeMode) -> None:
    known = matcher(mode)
    known.message(message(1))
    known.due(1.0)
    assert known.event([by_id(1)], b"", 3.0) is Fate.DROPPED


def test_a_second_event_for_one_message_is_dropped_once() -> None:
    known = matcher()
    known.message(message(1, "hi"))
    assert known.event([by_id(1)], b"", 0.1) is Fate.DELIVERS
    assert known.event([by_text("hi")], b"", 0.2) is Fate.DROPPED
    assert known.event([by_text("hi")], b"", 0.3) is Fate.PASSES


def test_one_event_stands_for_one_of_two_messages_with_the_same_text() -> None:
    known = matcher()
    known.message(message(1, "hi"))
    known.message(message(2, "hi", at=0.1))
    assert known.event([by_text("hi")], b"", 0.2) is Fate.DELIVERS
    assert numbers(known.due(2.0)) == [2]


def test_an_event_that_is_faster_than_nats_delivers_its_message() -> None:
    known = matcher()
    assert known.event([by_id(1)], b"", 0.0) is Fate.PASSES
    assert known.message(message(1, at=0.1)) == (Outcome.DELIVERED, 0)
    assert known.due(5.0) == []


def test_an_event_that_came_before_its_message_takes_no_other_event_with_it() -> None:
    known = matcher()
    known.event([by_text("ok")], b"", 0.0)
    assert known.message(message(1, "ok", at=0.1)) == (Outcome.DELIVERED, 0)
    assert known.event([by_text("ok")], b"", 1.0) is Fate.PASSES  # another message, faster than NATS again
    assert known.message(message(2, "ok", at=1.1)) == (Outcome.DELIVERED, 0)


def test_an_edit_with_the_same_id_is_another_message() -> None:
    known = matcher()
    known.message(message(1, "before"))
    assert numbers(known.due(1.0)) == [1]
    known.message(message(1, "after", at=1.5))
    assert known.event([by_id(1)], b"", 1.6) is Fate.DROPPED  # the late copy of the first
    assert known.event([by_id(1)], b"", 1.7) is Fate.DELIVERS


def test_replace_delivers_at_once_and_an_event_waits_for_its_message() -> None:
    known = matcher(REPLACE)
    assert known.message(message(1)) == (Outcome.FILLED, 0)
    assert known.event([by_id(2)], b"data: two\n\n", 0.0) is Fate.WAITS
    assert known.message(message(2, at=0.5)) == (Outcome.FILLED, 1)
    assert known.due(5.0) == []


def test_replace_passes_an_event_after_the_grace_if_nats_does_not_have_it() -> None:
    known = matcher(REPLACE)
    assert known.event([by_id(1)], b"data: one\n\n", 0.0) is Fate.WAITS
    assert known.due(1.0) == [b"data: one\n\n"]
    assert known.message(message(1, at=1.5)) == (Outcome.DELIVERED, 0)


def test_replace_passes_an_event_at_once_while_nats_is_away_and_knows_it_when_the_message_comes() -> None:
    known = matcher(REPLACE)
    assert known.event([by_id(1)], b"block", 0.0, may_wait=False) is Fate.PASSES
    assert known.due(GRACE) == []
    assert known.message(message(1, at=2.0)) == (Outcome.DELIVERED, 0)


def test_an_event_without_keys_passes_at_once() -> None:
    assert matcher(REPLACE).event([], b"", 0.0) is Fate.PASSES


def test_observe_passes_a_copy_of_a_missed_message() -> None:
    known = matcher(OBSERVE)
    known.message(message(1))
    assert numbers(known.due(1.0)) == [1]
    assert known.event([by_id(1)], b"", 2.0) is Fate.PASSES


def test_a_full_memory_is_counted_and_loses_no_message() -> None:
    known = matcher(most=2)
    filled: list[Message | bytes] = []
    for number in range(5):
        known.message(message(number))
        if known.is_full:
            filled += known.due(0.0)
    assert known.overflows
    assert numbers(filled + known.due(1.0)) == list(range(5))


def test_what_was_remembered_long_enough_is_forgotten() -> None:
    known = matcher()
    known.message(message(1))
    known.due(1.0)
    assert known.event([by_id(1)], b"", remembered_for(GRACE) + 0.1) is Fate.PASSES


@pytest.mark.parametrize("mode", [FILL, REPLACE])
def test_what_waits_is_known_after_a_time_in_which_the_process_stood_still(mode: BridgeMode) -> None:
    known, later = matcher(mode), remembered_for(GRACE) + 5.0
    if mode is FILL:
        known.message(message(1))
        assert known.event((by_id(1),), b"", later) is Fate.DELIVERS
    else:
        known.event((by_id(1),), b"", 0.0)
        assert known.message(message(1, at=later)) == (Outcome.FILLED, 1)
    assert known.due(later) == []
    known.message(message(2, at=later))  # what waits no more is forgotten
    assert known.event((by_id(1),), b"", later) is not Fate.DROPPED


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["nats", "upstream", "both", "upstream first", "twice", "late"]),
        st.floats(0.0, 0.4),
        st.sampled_from(["a", "b"]),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS, st.sampled_from([FILL, REPLACE]))
def test_every_message_is_delivered_exactly_once(
    steps: list[tuple[str, float, str]], mode: BridgeMode
) -> None:
    """The plain model: a message has a number, each delivery names it, and none may be named twice. What only
    upstream has is delivered, too.
    """
    known, now = matcher(mode, most=1000), 0.0
    got: Counter[bytes] = Counter()
    late: list[tuple[float, int]] = []

    def deliver(each: Message | bytes) -> None:
        got[each.frames if isinstance(each, Message) else each] += 1

    def on_nats(number: int) -> None:
        if known.message(message(number, at=now))[0] is Outcome.FILLED:
            deliver(message(number))

    def on_upstream(number: int, *, named: bool) -> None:
        block = b"data: %d\n\n" % number
        key = by_id(number) if named else by_text(str(number))
        if known.event([key], block, now) in (Fate.PASSES, Fate.DELIVERS):
            got[block] += 1

    for number, (step, later, named) in enumerate(steps):
        now += later
        for each in known.due(now):
            deliver(each)
        for at, which in [one for one in late if one[0] <= now]:
            late.remove((at, which))
            on_upstream(which, named=True)
        match step:
            case "nats":
                on_nats(number)
            case "upstream":
                on_upstream(number, named=named == "a")
            case "both":
                on_nats(number)
                on_upstream(number, named=named == "a")
            case "upstream first":
                on_upstream(number, named=named == "a")
                on_nats(number)
            case "twice":
                on_nats(number)
                on_upstream(number, named=True)
                on_upstream(number, named=False)
            case "late":
                on_nats(number)
                late.append((now + 3 * GRACE, number))
    for each in known.due(now + GRACE):
        deliver(each)
    for _, which in late:
        on_upstream(which, named=True)
    assert got == Counter({b"data: %d\n\n" % number: 1 for number in range(len(steps))})


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 0.5), max_size=30), st.sets(st.integers(0, 29)))
def test_what_is_filled_keeps_the_order_of_nats(waits: list[float], delivered: set[int]) -> None:
    known, now, filled = matcher(), 0.0, []
    for number, later in enumerate(waits):
        now += later
        filled += known.due(now)
        known.message(message(number, at=now))
        if number in delivered:
            known.event([by_id(number)], b"", now)
    filled += known.due(now + GRACE)
    assert numbers(filled) == [number for number in range(len(waits)) if number not in delivered]


# Messages of a JetStream stream, which may come late and have positions.


@pytest.mark.parametrize("mode", [FILL, REPLACE])
def test_events_of_the_time_in_which_no_message_came_are_remembered(mode: BridgeMode) -> None:
    known = matcher(mode)
    known.event([by_id(1)], b"x", 0.0)
    known.due(5.0)
    assert known.event([by_id(2)], b"x", 100.0, 5.0) in (Fate.PASSES, Fate.WAITS)
    known.due(105.0)
    assert known.message(message(1, at=110.0), 5.0) == (Outcome.DELIVERED, 0)
    known.message(message(9, at=111.0))  # nothing comes late any more
    assert known.message(message(2, at=111.0))[0] is not Outcome.DELIVERED


def test_a_message_that_the_client_has_already_is_known_by_its_copy() -> None:
    known = matcher()
    known.known(message(1), 0.0)
    assert known.event([by_id(1)], b"x", 1.0) is Fate.DROPPED
    assert known.due(2.0) == []


def test_the_positions_that_wait_are_those_of_messages_that_nobody_has_delivered() -> None:
    known = matcher()
    for number in (1, 2, 3):
        known.message(replace(message(number), position=10 + number))
    assert known.waiting == [11, 12, 13]
    known.event([by_id(2)], b"x", 0.1)
    assert known.waiting == [11, 13]
    known.due(1.0)
    assert known.waiting == []


@pytest.mark.parametrize("mode", [FILL, REPLACE])
def test_an_event_that_has_passed_is_ahead_until_its_message_comes(mode: BridgeMode) -> None:
    known = matcher(mode)
    known.message(message(1))
    known.event((by_id(1),), b"x", 0.0)
    known.event((by_id(2), by_text("2")), b"x", 0.0, may_wait=False)
    assert known.ahead == [by_id(2)]
    known.event((by_text("3"),), b"x", 0.1)
    known.due(1.1)
    assert known.ahead == [by_id(2), by_text("3")]
    known.message(message(2, at=1.2))
    assert known.ahead == [by_text("3")]
    known.event((by_id(4),), b"x", 30.0)
    known.due(31.0)
    assert known.ahead == [by_id(4)]  # what was before is forgotten


def test_only_the_newest_events_are_ahead() -> None:
    known = matcher()
    for number in range(MOST_AHEAD + 2):
        known.event((by_id(number),), b"x", 0.0)
    assert known.ahead == [by_id(number) for number in range(2, MOST_AHEAD + 2)]


@pytest.mark.parametrize("mode", [FILL, OBSERVE, REPLACE])
def test_a_message_without_an_event_of_upstream_in_time_is_undelivered(mode: BridgeMode) -> None:
    known = Matcher(mode, GRACE, watches=True)
    for number in (1, 2, 3):
        known.message(message(number))
    known.message(Message(frozenset("7"), (), b"data: x\n\n"))  # without keys it cannot be recognised
    known.event((by_id(1),), b"", 0.5)
    known.due(0.9)
    assert known.undelivered == 0
    known.due(1.0)
    assert known.undelivered == 2
    known.event((by_id(9),), b"block", 2.0)
    known.message(message(9, at=2.1))
    known.due(5.0)
    assert known.undelivered == 2
