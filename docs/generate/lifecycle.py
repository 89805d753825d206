"""The page about the life of a stream: a diagram of `TRANSITIONS`, and a table of the clocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sse_keepalive_proxy.stream.states import TRANSITIONS, State

__all__ = ["markdown"]

_INTRODUCTION = """\
# The life of a stream

<!-- Written by `make docs` from `sse_keepalive_proxy/stream/`. Do not edit. -->

`stream/lifecycle.py` takes events with their times and returns commands. It reads no clock and owns no timer:
`next_deadline` says when it must be called again.

When upstream ends or breaks off, the client's stream goes on if `reopens` allows a reconnect. The stream is
then `reconnecting`: pings continue, and the unfinished block is discarded. `stream/backoff.py` sets the time
of the next attempt. The wait is the time that upstream demands (`retry`, `Retry-After`) plus a random part of
a ceiling. The ceiling doubles with every attempt and is reset only by a sign of life. After every reconnect
the client gets a notice of the gap.

With `stall.action: reconnect`, upstream is asked for a new stream while its `stalled` one is kept, with the
same waits. If a new stream is accepted, the old one is closed. If an attempt fails, the old stream stays. A
sign of life from the old stream ends the attempt. If the old stream ends meanwhile, this is a reconnect like
any other.

A stream that must end (drain, `max_age`, an expired token) ends between two blocks. In the middle of a block
it waits up to one second for the end of the block.
"""


class _Clock(NamedTuple):
    names: str
    moved_by: str
    silence_makes: str
    never_moved_by: str


_CLOCKS = (
    _Clock(
        "`written_at`",
        "bytes that are sent to the client, from upstream or from the proxy",
        "a ping after `keepalive.interval`",
        "an unfinished block of upstream that is held, because none of it is sent",
    ),
    _Clock(
        "`held_since`",
        "the first byte of a block that is not finished",
        "the block is forwarded as it comes, after one second, unless upstream may be opened again",
        "further bytes of the block. It stops while the proxy has paused upstream",
    ),
    _Clock(
        "`upstream_at`, `alive_at`",
        "bytes from upstream; `alive_at` only by a sign of life (`stall.sign_of_life`, `stall.ignore`)",
        "`idle` after one interval; `stalled` after `stall.after`; the end after `stall.close_after`",
        "bytes of the proxy; a reconnect. Both stop while the proxy has paused upstream",
    ),
    _Clock(
        "`moved_at`",
        "waiting bytes that the client accepts",
        "the end after `write_timeout`: `client_stalled`, or a cut if the stream has already ended",
        "bytes that are written but not accepted",
    ),
    _Clock(
        "`began_at` of the outage",
        "each loss of upstream; the decision to replace a stalled one",
        "the end after `reconnect.give_up_after`: `give_up`",
        "failed attempts; waits that upstream demands",
    ),
    _Clock(
        "`opened_at`",
        "each answer of upstream with an event stream",
        "an attempt to replace it after `stall.after`, if it is `stalled` (`stall.action: reconnect`)",
        "bytes from upstream. It stops while the proxy has paused upstream",
    ),
)


def markdown() -> str:
    """Return the page."""
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
    yield from ("## The clocks", "", "No clock replaces another.", "")
    yield from ("| clock | moved by | if it does not move | not moved by |", "|---|---|---|---|")
    for clock in _CLOCKS:
        yield f"| {' | '.join(clock)} |"
