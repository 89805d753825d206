"""The life of a stream as a page: its states drawn from `TRANSITIONS`, its clocks in a table.

Returns text only; `make docs` writes it to `docs/design/lifecycle.md`, and a test fails when the committed
file differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sse_keepalive_proxy.stream.states import TRANSITIONS, State

__all__ = ["markdown"]

_INTRODUCTION = """\
# The life of a stream

<!-- Written by `make docs` from `sse_keepalive_proxy/stream/`. Do not edit. -->

`stream/lifecycle.py` is told what happened and when, and answers with what is to be done. It reads no clock
and owns no timer: `next_deadline` says when it wants to be asked again.

An upstream that ends, breaks off or is given up as stalled is not the end of the client's stream where
`reopens` says that it may be asked again. The stream is `reconnecting` then, pings go on, and half a block
is thrown away. `stream/backoff.py` says when upstream is asked: after what it demands itself (`retry`,
`Retry-After`) and a random part of a ceiling, which doubles with every attempt and is small again only
after a sign of life. Every opening but the first is announced with the gap before it. A stream that is to
leave (drain, `max_age`, an expired token) does so between two blocks: in the middle of one it waits up to a
second for its end.
"""


class _Clock(NamedTuple):
    names: str
    moved_by: str
    silence_makes: str
    never_moved_by: str


_CLOCKS = (
    _Clock(
        "`written_at`",
        "bytes that leave for the client: upstream's or ours",
        "a ping after `keepalive.interval`",
        "an unfinished block of upstream, since nothing of it leaves",
    ),
    _Clock(
        "`upstream_at`, `alive_at`",
        "bytes of upstream; those that are a sign of life (`stall.sign_of_life`, `stall.ignore`)",
        "`idle` after an interval; `stalled` after `stall.after`, the end after `stall.close_after`",
        "anything we write, opening upstream again; they stand still while we have paused upstream",
    ),
    _Clock(
        "`moved_at`",
        "bytes that the client takes of those that wait for it",
        "the end after `write_timeout`: `client_stalled`, or a cut where the stream has ended already",
        "anything we write",
    ),
    _Clock(
        "`began_at` of the outage",
        "upstream being lost, each time anew",
        "the end after `reconnect.give_up_after`: `give_up`",
        "attempts that fail; what upstream demands before the next one",
    ),
    _Clock(
        "`opened_at`",
        "upstream answering with an event stream, each time anew",
        "another upstream (`stall.action: reconnect`): a `stalled` one had `stall.after` to show life",
        "anything that it sends; it stands still while we have paused upstream",
    ),
)


def markdown() -> str:
    """The page."""
    return "\n".join([_INTRODUCTION, *_diagram(), "", *_states(), "", *_clocks(), ""])


def _diagram() -> Iterator[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {next(iter(State))}"
    for state, ways in TRANSITIONS.items():
        for target, cause in ways.items():
            yield f"    {state} --> {target}: {cause}"
        if not ways:
            yield f"    {state} --> [*]"
    yield "```"


def _states() -> Iterator[str]:
    yield from ("| state | meaning |", "|---|---|")
    for state in State:
        yield f"| `{state}` | {state.meaning} |"


def _clocks() -> Iterator[str]:
    yield from ("## The clocks", "", "None of them ever stands for another.", "")
    yield from ("| clock | moved by | its silence makes | never moved by |", "|---|---|---|---|")
    for clock in _CLOCKS:
        yield f"| {' | '.join(clock)} |"
