"""A stream whose credential upstream refuses when it is asked again: kept, or ended."""

from __future__ import annotations

from sse_keepalive_proxy.stream.messages import (
    Close,
    CloseReason,
    Commit,
    CommitEarly,
    Hasten,
    KeepUntil,
    LeaveAt,
    NotOpened,
    Opened,
    Ping,
    Reopen,
    UpstreamLost,
)
from sse_keepalive_proxy.stream.policy import Reconnect
from tests.stream.transcript import Reopens, Step, play, promise

LASTING = promise(reconnect=Reconnect(delay=2, max_delay=16, give_up_after=100))
PINGED = promise(ping=400, reconnect=Reconnect(delay=2, max_delay=16, give_up_after=100))
REFUSED = NotOpened(CloseReason.UNAUTHORIZED, again=False)
UNAUTHORIZED = Close(CloseReason.UNAUTHORIZED)
LOST = UpstreamLost(CloseReason.UPSTREAM_END)
OPEN: list[tuple[float, Step]] = [(0, Reopens()), (0, Opened())]
BEGUN = [(0, Commit(confirm=True)), (9, Reopen())]


def test_a_refusal_ends_a_stream() -> None:
    transcript = play(LASTING, *OPEN, (8, LOST), (10, REFUSED), until=1000)
    assert transcript.said == [*BEGUN, (10, UNAUTHORIZED)]


def test_a_stream_that_is_kept_gets_pings_until_its_time_and_asks_no_more() -> None:
    script: list[tuple[float, Step]] = [(0, KeepUntil(900)), (8, LOST), (10, REFUSED), (20, Hasten(1))]
    said = play(PINGED, *OPEN, *script, until=1000).said
    assert [line for line in said if not isinstance(line[1], Ping)] == [*BEGUN, (900, UNAUTHORIZED)]
    assert [at for at, command in said if isinstance(command, Ping)] == [400, 800]


def test_a_stream_whose_time_is_over_when_it_is_refused_ends_then() -> None:
    script: list[tuple[float, Step]] = [(0, KeepUntil(5)), (8, LOST), (10, REFUSED)]
    assert play(LASTING, *OPEN, *script, until=1000).said == [*BEGUN, (10, UNAUTHORIZED)]


def test_a_kept_stream_ends_for_another_reason_if_that_comes_first() -> None:
    leaves = LeaveAt(50, CloseReason.MAX_AGE)
    script: list[tuple[float, Step]] = [(0, KeepUntil(900)), (0, leaves), (8, LOST), (10, REFUSED)]
    assert play(LASTING, *OPEN, *script, until=1000).said == [*BEGUN, (50, Close(CloseReason.MAX_AGE))]


def test_only_a_refusal_of_the_credential_keeps_a_stream() -> None:
    gone = NotOpened(CloseReason.UPSTREAM_STATUS, again=False)
    script: list[tuple[float, Step]] = [(0, KeepUntil(900)), (8, LOST), (10, gone)]
    transcript = play(LASTING, *OPEN, *script, until=1000)
    assert transcript.said == [*BEGUN, (10, Close(CloseReason.UPSTREAM_STATUS))]


def test_a_stream_that_upstream_has_never_opened_is_not_kept() -> None:
    early: list[tuple[float, Step]] = [(0, Reopens()), (0, KeepUntil(900)), (5, CommitEarly())]
    committed = (5, Commit(confirm=False))
    assert play(LASTING, *early, (6, REFUSED), until=1000).said == [committed, (6, UNAUTHORIZED)]
    unavailable = NotOpened(CloseReason.UPSTREAM_STATUS, again=True)
    said = play(LASTING, *early, (6, unavailable), (8, REFUSED), until=1000).said
    assert said == [committed, (7, Reopen()), (8, UNAUTHORIZED)]
