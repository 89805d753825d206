"""A stream whose upstream has sent the last event of its protocol (behaviour.md#finished-streams)."""

from __future__ import annotations

from sse_keepalive_proxy.stream.messages import (
    Close,
    CloseReason,
    Commit,
    Finished,
    Opened,
    Paused,
    Ping,
    Resumed,
    Stalled,
    UpstreamLost,
)
from sse_keepalive_proxy.stream.policy import Reconnect, ReconnectWhen, Stall
from tests.stream.transcript import DATA, NOISE, Reopens, play, promise

PINGS = promise(ping=10)
BOUNDED = promise(ping=10, stall=Stall(after=60, close_after=120))
OPEN = (0, Opened())
COMMITTED = (0, Commit(confirm=True))
LAST = (3, DATA), (3, Finished(finished=True))


def test_no_ping_follows_the_last_event() -> None:
    assert play(PINGS, OPEN, *LAST, until=1000).said == [COMMITTED]


def test_it_cannot_stall() -> None:
    watched = promise(stall=Stall(after=60))
    assert play(watched, OPEN, *LAST, until=1000).said == [COMMITTED]


def test_it_ends_after_close_after_whatever_else_upstream_sends() -> None:
    beats = [(at, NOISE) for at in range(5, 123, 2)]
    transcript = play(BOUNDED, OPEN, *LAST, *beats, until=1000)
    assert transcript.said[-1] == (123, Close(CloseReason.STALLED))
    assert not any(isinstance(said, Ping | Stalled) for _, said in transcript.said)


def test_an_event_after_it_brings_the_pings_back() -> None:
    more = (20, DATA), (20, Finished(finished=False))
    transcript = play(PINGS, OPEN, *LAST, *more, until=35)
    assert [at for at, said in transcript.said if isinstance(said, Ping)] == [30]


def test_the_time_to_its_end_stands_still_while_we_have_paused_upstream() -> None:
    pause = (5, Paused()), (105, Resumed())
    transcript = play(BOUNDED, OPEN, *LAST, *pause, until=1000)
    assert transcript.said[-1] == (223, Close(CloseReason.STALLED))


def test_it_is_never_opened_again() -> None:
    always = promise(reconnect=Reconnect(ReconnectWhen.ALWAYS))
    lost = (9, UpstreamLost(CloseReason.UPSTREAM_END))
    transcript = play(always, (0, Reopens()), OPEN, *LAST, lost, until=100)
    assert transcript.said[-1] == (9, Close(CloseReason.UPSTREAM_END))
