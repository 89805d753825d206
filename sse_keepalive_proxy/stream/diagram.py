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
        "anything we write; they stand still while we have paused upstream",
    ),
    _Clock(
        "`moved_at`",
        "bytes that the client takes of those that wait for it",
        "the end after `write_timeout`: `client_stalled`, or a cut where the stream has ended already",
        "anything we write",
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
    yield from ("## Three clocks", "", "None of them ever stands for another.", "")
    yield from ("| clock | moved by | its silence makes | never moved by |", "|---|---|---|---|")
    for clock in _CLOCKS:
        yield f"| {' | '.join(clock)} |"
