"""The log of a group: what it keeps, what it adds, and what it says to a client that comes back."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sse_keepalive_proxy.stream.policy import Replay, ReplayIds
from sse_keepalive_proxy.stream.position import Position
from sse_keepalive_proxy.stream.replay_log import (
    OVERHEAD,
    GapReason,
    ReplayLog,
    ReplayLogs,
    is_ours,
    position_in,
)
from sse_keepalive_proxy.wire.block import last_id, parse, split
from sse_keepalive_proxy.wire.framing import Framer
from tests.support import sse_reference
from tests.wire.bodies import bodies, chunkings, whole_bodies

PLENTY = 1 << 20
NONCE = "0123abcd"
ENDINGS = pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
IDS = pytest.mark.parametrize("ids", list(ReplayIds))


def log_of(
    blocks: Iterable[bytes] = (),
    *,
    ids: ReplayIds = ReplayIds.UPSTREAM,
    events: int = 1000,
    size: int = PLENTY,
    nonce: str = NONCE,
) -> ReplayLog:
    log = ReplayLog(Replay(events, size, ids), nonce)
    for block in blocks:
        log.add(block)
    return log


def ours(number: int, nonce: str = NONCE) -> bytes:
    return b"skp-%b-%d" % (nonce.encode(), number)


def event(number: int) -> bytes:
    return b"id: %d\ndata: %d\n\n" % (number, number)


def framed(chunks: list[bytes]) -> list[bytes]:
    """What the framer makes of a body that was cut like this."""
    framer = Framer(PLENTY, sure=True)
    return [blocks for chunk in chunks if (blocks := framer.feed(chunk))]


# What clients get.


def test_an_event_without_an_id_gets_one_in_front_and_the_next_one_the_next() -> None:
    log = log_of(ids=ReplayIds.ADD)
    assert log.add(b"data: a\n\n") == b"id: skp-0123abcd-1\ndata: a\n\n"
    assert log.add(b"event: x\ndata: b\n\ndata: c\n\n") == (
        b"id: skp-0123abcd-2\nevent: x\ndata: b\n\nid: skp-0123abcd-3\ndata: c\n\n"
    )


@ENDINGS
def test_an_added_line_ends_like_the_line_behind_it(end: bytes) -> None:
    log = log_of(ids=ReplayIds.ADD)
    block = b"data: a" + end + end
    assert log.add(block) == b"id: skp-0123abcd-1" + end + block


def test_the_line_behind_it_decides_where_endings_are_mixed() -> None:
    log = log_of(ids=ReplayIds.ADD)
    assert log.add(b"data: a\ndata: b\r\n\r") == b"id: skp-0123abcd-1\ndata: a\ndata: b\r\n\r"
    assert log.add(b"\n") == b"\n"
    assert log.add(b"data: a\r\ndata: b\n\n") == b"id: skp-0123abcd-2\r\ndata: a\r\ndata: b\n\n"
    assert log.add(b"data: a\rdata: b\n\n") == b"id: skp-0123abcd-3\rdata: a\rdata: b\n\n"


def test_an_id_is_added_behind_the_comments_in_front_of_an_event() -> None:
    log = log_of(ids=ReplayIds.ADD)
    assert log.add(b":a\r\n:b\ndata: x\n\n") == b":a\r\n:b\nid: skp-0123abcd-1\ndata: x\n\n"


@pytest.mark.parametrize(
    "block",
    [
        b"id: 7\ndata: a\n\n",
        b"data: a\nid:7\n\n",
        b"data: a\nid: skp-00000000-9\n\n",
        b"data: a\r\nid: 7\r\n\r\n",
        b"id\rdata: a\r\r",
        b"id:\ndata: a\n\n",
        b"retry: 5\n\n",
        b"event: x\n\n",
        b"id: 7\n\n",
        b":note\n",
        b":note\n\n",
        b"\n",
        b"",
    ],
)
def test_an_own_id_and_a_block_without_data_are_never_changed(block: bytes) -> None:
    assert log_of(ids=ReplayIds.ADD).add(block) == block


@pytest.mark.parametrize("block", [b"id: 7\0\ndata: a\n\n", b"identity: 7\ndata: a\n\n"])
def test_what_clients_do_not_take_for_an_id_is_none(block: bytes) -> None:
    added = log_of(ids=ReplayIds.ADD).add(block)
    assert added == b"id: skp-0123abcd-1\n" + block
    assert last_id(added) == ours(1)


@given(chunkings())
def test_without_added_ids_clients_get_the_bytes_of_upstream(chunks: list[bytes]) -> None:
    log = log_of()
    for blocks in framed(chunks):
        assert log.add(blocks) == blocks


@given(chunkings())
@example([b"data: 1\r\r", b"\ndata: 2\n\n"])
@example([b":note\r", b"\ndata: 2\r\n\r", b"\n"])
@example([b":note\n", b"data: 2\n\n"])
def test_what_clients_get_does_not_depend_on_how_upstream_was_read(chunks: list[bytes]) -> None:
    in_pieces, at_once = log_of(ids=ReplayIds.ADD), log_of(ids=ReplayIds.ADD)
    got = b"".join(map(in_pieces.add, framed(chunks)))
    whole = framed([b"".join(chunks)])
    assert got == b"".join(map(at_once.add, whole))


@given(bodies)
def test_a_client_hears_the_same_events_each_with_an_id(body: bytes) -> None:
    log = log_of(ids=ReplayIds.ADD)
    blocks = b"".join(framed([body]))
    before = sse_reference.parse(b"\n" + blocks)
    after = sse_reference.parse(b"\n" + log.add(blocks))
    assert after.comments == before.comments
    assert after.reconnection_time == before.reconnection_time
    assert [(one.type, one.data) for one in after.events] == [(one.type, one.data) for one in before.events]
    own = [parse(block).id for block in split(blocks) if parse(block).is_event]
    given = 0
    for heard, id_ in zip(after.events, own, strict=True):
        given += id_ is None
        expected = ours(given) if id_ is None else id_
        assert heard.last_event_id == expected.decode("utf-8", "replace")


# Who comes back.


def test_a_client_that_comes_back_gets_what_came_after_its_id() -> None:
    log = log_of(map(event, range(1, 5)))
    assert log.after(b"2") == [event(3), event(4)]
    assert log.after(b"4") == []


def test_several_events_in_one_read_are_replayed_one_by_one() -> None:
    log = log_of([event(1) + event(2) + event(3)])
    assert log.after(b"1") == [event(2), event(3)]


def test_an_event_is_replayed_with_the_id_that_the_others_got() -> None:
    log = log_of(ids=ReplayIds.ADD)
    sent = [log.add(b"data: %d\n\n" % number) for number in range(3)]
    assert log.after(ours(1)) == sent[1:]


def test_of_two_blocks_with_one_id_the_later_one_counts() -> None:
    log = log_of([event(1), event(2), event(1), event(3)])
    assert log.after(b"1") == [event(3)]


def test_an_id_is_compared_as_a_whole() -> None:
    log = log_of([b"id: 1\ndata: a\n\n", b"id: 12\ndata: 1\n\n", b"data: id: 1\n\n"])
    assert log.after(b"1") == [b"id: 12\ndata: 1\n\n", b"data: id: 1\n\n"]
    assert log.after(b"2") is GapReason.UNKNOWN


def test_blocks_without_an_id_are_replayed_behind_the_one_that_has_it() -> None:
    log = log_of([event(1), b"data: without\n\n", event(2)])
    assert log.after(b"1") == [b"data: without\n\n", event(2)]


def test_an_id_without_an_event_is_a_place_to_come_back_to() -> None:
    log = log_of([event(1), b"id: 2\n\n", event(3)])
    assert log.after(b"1") == [b"id: 2\n\n", event(3)]
    assert log.after(b"2") == [event(3)]


def test_comments_are_not_replayed() -> None:
    log = log_of([event(1), b":one\n", b":two\n\n", b"\n", b":three\r\n" + event(2), b":four\n"])
    assert log.after(b"1") == [event(2)]


def test_a_change_of_the_reconnection_time_is_replayed() -> None:
    assert log_of([event(1), b"retry: 5\n\n"]).after(b"1") == [b"retry: 5\n\n"]


@IDS
@given(chunkings(whole_bodies))
def test_each_id_leads_to_exactly_the_events_behind_it(ids: ReplayIds, chunks: list[bytes]) -> None:
    log = log_of(ids=ids)
    sent = [block for blocks in framed(chunks) for block in split(log.add(blocks))]
    heard = [sse_reference.parse(b"\n" + block).events for block in sent]
    places = {id_: index for index, block in enumerate(sent) if (id_ := last_id(block))}
    for id_, index in places.items():
        missed = log.after(id_)
        assert not isinstance(missed, GapReason)
        replayed = sse_reference.parse(b"\n" + b"".join(missed))
        assert [(one.type, one.data) for one in replayed.events] == [
            (one.type, one.data) for events in heard[index + 1 :] for one in events
        ]
        assert replayed.comments == []


# What is not known any more.


def test_an_id_that_was_dropped_is_too_old_if_it_was_ours() -> None:
    log = log_of([b"data: %d\n\n" % number for number in range(10)], ids=ReplayIds.ADD, events=3)
    assert log.after(ours(1)) is GapReason.TOO_OLD
    assert log.after(ours(6)) is GapReason.TOO_OLD
    missed = log.after(ours(7))
    assert not isinstance(missed, GapReason)
    assert [last_id(block) for block in missed] == [ours(8), ours(9), ours(10)]


def test_whoever_has_all_that_was_dropped_has_missed_only_what_is_kept() -> None:
    log = log_of(map(event, range(1, 6)), events=2)
    assert log.after(b"3") == [event(4), event(5)]
    assert log.after(b"2") is GapReason.UNKNOWN


def test_whoever_may_have_missed_a_dropped_block_without_an_id_is_told_so() -> None:
    log = log_of([event(1), b"data: without\n\n", event(2), event(3)], events=2)
    assert log.after(b"1") is GapReason.UNKNOWN


@pytest.mark.parametrize(
    "id_",
    [
        b"",
        b"7",
        ours(4),
        ours(0),
        ours(1, nonce="fedcba98"),
        b"skp-0123abcd-",
        b"skp-0123abcd-01x",
        b"skp-0123abcd-" + b"9" * 5000,
        b"skp-0123abcd-\xd9\xa1",
        b"data: 1",
    ],
)
def test_an_id_that_no_block_of_this_log_had_is_unknown(id_: bytes) -> None:
    log = log_of([b"data: 1\n\n"] * 3, ids=ReplayIds.ADD, events=1)
    assert log.after(id_) is GapReason.UNKNOWN


def test_an_empty_id_is_no_place_to_come_back_to() -> None:
    assert log_of([b"id:\ndata: 1\n\n", event(2)]).after(b"") is GapReason.UNKNOWN
    assert log_of([b"id:\ndata: 1\n\n", event(2)], events=1).after(b"") is GapReason.UNKNOWN


def test_an_empty_log_knows_nobody() -> None:
    assert log_of().after(b"1") is GapReason.UNKNOWN


def test_ids_are_known_as_ours_after_a_restart() -> None:
    log = log_of(ids=ReplayIds.ADD, nonce="fedcba98")
    added = last_id(log.add(b"data: 1\n\n"))
    assert added is not None
    assert is_ours(added)
    assert log_of(ids=ReplayIds.ADD).after(added) is GapReason.UNKNOWN


@pytest.mark.parametrize(
    "id_", [b"", b"1", b"skp-", b"skp-0123ABCD-1", b"skp-0123abcd-1\n", b"xskp-0123abcd-1"]
)
def test_the_ids_of_others_are_not_ours(id_: bytes) -> None:
    assert not is_ours(id_)


# Bounds.


@IDS
@given(chunkings(), st.integers(1, 5), st.integers(1, 400))
def test_a_log_is_never_above_its_bounds_and_keeps_the_newest(
    ids: ReplayIds, chunks: list[bytes], events: int, size: int
) -> None:
    log = log_of(ids=ids, events=events, size=size)
    unbounded = log_of([b"id: first\ndata: 1\n\n"], ids=ids)
    for blocks in framed(chunks):
        assert log.add(blocks) == unbounded.add(blocks)
        everything = unbounded.after(b"first")
        assert isinstance(everything, list)
        kept, left = list[bytes](), size
        for block in reversed(everything):
            left -= len(block) + OVERHEAD
            if left < 0 or len(kept) == events:
                break
            kept.insert(0, block)
        assert log.size == sum(len(block) + OVERHEAD for block in kept) <= size
        places = {id_: index for index, block in enumerate(kept) if (id_ := last_id(block))}
        for id_, index in places.items():
            assert log.after(id_) == kept[index + 1 :]


def test_an_event_larger_than_the_log_empties_it_and_the_order_stays() -> None:
    log = log_of([event(1), event(2)], size=200)
    log.add(b"id: large\ndata: %b\n\n" % (b"x" * 200))
    assert log.size == 0
    assert log.after(b"2") is GapReason.UNKNOWN
    assert log.after(b"large") == []
    log.add(event(3))
    assert log.after(b"large") == [event(3)]
    assert log.after(b"1") is GapReason.UNKNOWN


def test_a_log_that_was_let_go_knows_only_whoever_had_it_all() -> None:
    log = log_of([b"data: 1\n\n"] * 3, ids=ReplayIds.ADD)
    log.let_go()
    assert log.size == 0
    assert log.after(ours(3)) == []
    assert log.after(ours(2)) is GapReason.TOO_OLD
    log.let_go()
    assert log.after(ours(3)) == []
    assert log.add(b"data: 4\n\n") == b"id: %b\ndata: 4\n\n" % ours(4)
    assert log.after(ours(3)) == [b"id: %b\ndata: 4\n\n" % ours(4)]


def test_nobody_has_it_all_when_something_passed_a_log() -> None:
    log = log_of([b"data: 1\n\n"] * 3, ids=ReplayIds.ADD, events=2)
    log.clear()
    assert log.size == 0
    assert {log.after(ours(number)) for number in (1, 2, 3)} == {GapReason.TOO_OLD}
    log.add(b"data: 4\n\n")
    assert log.after(ours(3)) is GapReason.TOO_OLD
    assert log.after(ours(4)) == []


# All logs together.


def test_above_the_limit_the_log_written_longest_ago_is_emptied_and_counted() -> None:
    logs = ReplayLogs(limit=3 * (len(event(1)) + OVERHEAD))
    one, two, three = (log_of() for _ in range(3))
    for log in (one, two, three, one):
        log.add(event(1))
        logs.note(log)
    assert (one.size > 0, two.size, three.size > 0) == (True, 0, True)
    assert (logs.size, logs.let_go) == (one.size + three.size, 1)


def test_as_many_logs_are_emptied_as_it_takes() -> None:
    logs = ReplayLogs(limit=500)
    small = [log_of([event(1)]) for _ in range(5)]
    for log in small:
        logs.note(log)
    large = log_of([b"data: %b\n\n" % (b"x" * 400)])
    logs.note(large)
    assert [log.size for log in small] == [0] * 5
    assert (logs.size, logs.let_go) == (large.size, 5)


def test_a_log_that_is_larger_than_the_limit_is_emptied_itself() -> None:
    logs = ReplayLogs(limit=100)
    log = log_of([b"data: %b\n\n" % (b"x" * 400)])
    logs.note(log)
    assert (log.size, logs.size, logs.let_go) == (0, 0, 1)


def test_a_forgotten_log_takes_no_room_and_is_not_emptied() -> None:
    logs = ReplayLogs(limit=2 * (len(event(1)) + OVERHEAD))
    one, two, three = (log_of([event(1)]) for _ in range(3))
    logs.note(one)
    logs.forget(one)
    logs.forget(one)
    for log in (two, three):
        logs.note(log)
    assert (one.size, logs.let_go) == (two.size, 0)


def test_an_empty_log_is_not_let_go() -> None:
    logs = ReplayLogs(limit=1)
    logs.note(log_of())
    full = log_of([event(1)])
    logs.note(full)
    assert (full.size, logs.let_go) == (0, 1)


def test_a_lower_limit_holds_from_the_next_event_on() -> None:
    logs = ReplayLogs(limit=1000)
    one, two = log_of([event(1)]), log_of([event(1)])
    logs.note(one)
    logs.limit = two.size
    logs.note(two)
    assert (one.size, two.size > 0, logs.let_go) == (0, True, 1)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 120)), max_size=40))
def test_all_logs_together_are_never_above_the_limit(writes: list[tuple[int, int]]) -> None:
    logs = ReplayLogs(limit=400)
    several = [log_of(size=300) for _ in range(5)]
    for at, length in writes:
        several[at].add(b"data: %b\n\n" % (b"x" * length))
        logs.note(several[at])
        assert logs.size == sum(log.size for log in several) <= 400


# Positions in a JetStream stream.


def test_an_id_carries_the_position_and_only_the_last_block_has_the_new_one() -> None:
    log = log_of(ids=ReplayIds.ADD)
    assert log.add(b"data: a\n\n", Position(7)) == b"id: skp-0123abcd-1-7\ndata: a\n\n"
    assert log.add(b"data: b\n\ndata: c\n\n", Position(9, (8,))) == (
        b"id: skp-0123abcd-2-7\ndata: b\n\nid: skp-0123abcd-3-9.1\ndata: c\n\n"
    )
    assert log.after(b"skp-0123abcd-2-7") == [b"id: skp-0123abcd-3-9.1\ndata: c\n\n"]
    assert log.after(b"skp-0123abcd-2-8") is GapReason.TOO_OLD
    assert log.after(b"skp-89abcdef-2-7") is GapReason.UNKNOWN


def test_blocks_for_one_client_get_ids_that_no_other_block_has_and_are_not_kept() -> None:
    log = log_of(ids=ReplayIds.ADD)
    log.add(b"data: a\n\n", Position(7))
    assert log.name(b"data: x\n\ndata: y\n\n", Position(3), Position(5)) == (
        b"id: skp-0123abcd-2-3\ndata: x\n\nid: skp-0123abcd-3-5\ndata: y\n\n"
    )
    assert log.add(b"data: b\n\n", Position(9)) == b"id: skp-0123abcd-4-9\ndata: b\n\n"
    assert log.after(b"skp-0123abcd-1-7") == [b"id: skp-0123abcd-4-9\ndata: b\n\n"]
    assert log.after(b"skp-0123abcd-3-5") is GapReason.TOO_OLD


@pytest.mark.parametrize(
    ("id_", "position"),
    [
        (b"skp-0123abcd-7-4711", Position(4711)),
        (b"skp-0123abcd-7-0", Position(0)),
        (b"skp-0123abcd-7-4711.3.1_9f86d0818847", Position(4711, (4708, 4710), (b"9f86d0818847",))),
        (b"skp-0123abcd-7", None),
        (b"skp-0123abcd-7-", None),
        (b"skp-0123abcd-7--1", None),
        (b"skp-0123abcd-7-1-2", None),
        (b"skp-0123abcd-7-1.", None),
        (b"skp-0123abcd-7-1" + b".1" * 33, None),
        (b"skp-0123abcd-7-1_9f86d081884", None),
        (b"skp-0123abcd-7-1_9f86d0818847.1", None),
        (b"skp-0123abcd-7-1234567890123456789", None),
        (b"7-4711", None),
        (b"", None),
    ],
)
def test_a_position_is_read_only_from_an_id_of_a_proxy(id_: bytes, position: Position | None) -> None:
    assert position_in(id_) == position
    assert is_ours(id_) or position is None
