"""Every answer, failure and loss of upstream, and what a client then sees, as values.

`test_outcomes.py` plays every cell of these tables on the real server. The page `docs/reference/outcomes.md`
is generated from the same values: run this module to print it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto

from sse_keepalive_proxy.stream.messages import CloseReason
from tests.support.http1 import LAST_CHUNK, chunk, response, stream_head
from tests.support.instance import EVENT_SOURCE
from tests.support.raw_upstream import CLOSE, HOLD, RESET, Step

__all__ = [
    "ANSWERS", "LATER", "LOSSES", "WHO", "Again", "Answers", "Begins", "Column", "Ends", "GoesOn", "Loss",
    "Ours", "Outcome", "Passes", "Trouble", "Way", "Who", "markdown",
]  # fmt: skip


# What a client sees.


@dataclass(frozen=True, slots=True)
class Begins:
    """The stream, injections and all."""


@dataclass(frozen=True, slots=True)
class Passes:
    """Upstream's own answer, unchanged. `again`: not the first one, but the last within `first_within`."""

    again: bool = False


@dataclass(frozen=True, slots=True)
class Ours:
    """A 502 or 504 of the proxy, since there is no answer. `again` as for `Passes`."""

    again: bool = False


@dataclass(frozen=True, slots=True)
class GoesOn:
    """The stream, after a word about the gap."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The end of the stream. `told`: with the status that came too late, as a `proxy_error`. `again`: not
    for the first answer, but after others of that kind.
    """

    reason: CloseReason
    told: bool = False
    again: bool = False


Outcome = Begins | Passes | Ours | GoesOn | Ends


class Column(StrEnum):
    """Who waits for upstream's answer; the value is a field of `Answers`."""

    FIRST = "first"
    ONCE = "once"
    EARLY = "early"
    EARLY_AGAIN = "early_again"
    AGAIN = "again"


@dataclass(frozen=True, slots=True)
class Follows:
    """The outcomes of one kind of answer, by column."""

    first: Outcome
    once: Outcome
    early: Outcome
    early_again: Outcome
    again: Outcome

    def of(self, column: Column) -> Outcome:
        """That of one column."""
        found: Outcome = getattr(self, column.value)
        return found


STREAM = Follows(Begins(), Begins(), Begins(), Begins(), GoesOn())


def final(reason: CloseReason) -> Follows:
    """An answer that no other attempt will better."""
    told = Ends(reason, told=True)
    return Follows(Passes(), Passes(), told, told, Ends(reason))


def _passing(once: Passes | Ours, reason: CloseReason) -> Follows:
    """One that the next attempt may better."""
    return Follows(
        Passes(again=True) if isinstance(once, Passes) else Ours(again=True),
        once,
        Ends(reason, told=True),
        Ends(CloseReason.GIVE_UP, told=True, again=True),
        Ends(CloseReason.GIVE_UP, again=True),
    )


MENDABLE = _passing(Passes(), CloseReason.UPSTREAM_STATUS)
REFUSED = _passing(Ours(), CloseReason.UPSTREAM_REFUSED)
BROKEN = _passing(Ours(), CloseReason.UPSTREAM_RESET)
CONFLICT = replace(final(CloseReason.UPSTREAM_STATUS), again=MENDABLE.again)
MUCH_LATER = Follows(
    Passes(),
    Passes(),
    Ends(CloseReason.UPSTREAM_STATUS, told=True),
    Ends(CloseReason.GIVE_UP, told=True),
    Ends(CloseReason.GIVE_UP),
)


# How upstream answers.


class Trouble(Enum):
    """What keeps a connection from being made."""

    REFUSED = auto()
    UNKNOWN_NAME = auto()
    NO_CONNECTION = auto()


Does = tuple[Step, ...] | Trouble


@dataclass(frozen=True, slots=True)
class Way:
    """One answer. `does`: what upstream does once it has the request. `status`: what a client gets that waits
    for one, `told` what it is told where that is another.
    """

    name: str
    does: Does
    status: int
    body: bytes = b""
    told: int | None = None
    stream: str = ""  # lines of the route's `stream` section that it needs


@dataclass(frozen=True, slots=True)
class Answers:
    """A row: answers that nobody need tell apart."""

    title: str
    follows: Follows
    ways: tuple[Way, ...]


def _plain(status: str, *headers: str, body: bytes = b"upstream's own words") -> Way:
    """An answer that is no stream."""
    name = " ".join([status, *headers])
    return Way(name, (response(status, body, *headers),), int(status[:3]), body)


def _stream(status: str, before: bytes = b"", name: str = "") -> Way:
    head = stream_head(status=status)
    return Way(name or status, (before + head + chunk(LATER),), int(status[:3]))


def _fault(name: str, *does: Step, status: int = 502, stream: str = "") -> Way:
    return Way(name, does, status, stream=stream)


LATER = b"data: later\n\n"
"""What upstream says in a stream that begins, or goes on."""

_HALF_HEAD = b"HTTP/1.1 200 OK\r\nContent-Ty"
_EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: other\r\nconnection: upgrade\r\n\r\n"
_ZIPPED = "content-encoding: gzip"
_SLOW = "open_timeout: 400ms"
_TYPE = "content-type: text/event-stream"

ANSWERS = (
    Answers(
        "2xx `text/event-stream` (200, 201, 206, …; a 103 may come before it)",
        STREAM,
        (
            _stream("200 OK"),
            _stream("201 Created"),
            _stream("206 Partial Content"),
            _stream("200 OK", _EARLY_HINTS, "103, then 200"),
        ),
    ),
    Answers(
        "the same with a content coding",
        final(CloseReason.UPSTREAM_STATUS),
        (_plain("200 OK", _TYPE, _ZIPPED, body=b"\x1f\x8bzipped"),),
    ),
    Answers(
        "2xx with another type, or without a type",
        final(CloseReason.UPSTREAM_STATUS),
        (
            _plain("200 OK", "content-type: text/html"),
            _plain("200 OK"),
            _plain("201 Created", "content-type: application/json"),
        ),
    ),
    Answers(
        "204, 205",
        final(CloseReason.UPSTREAM_STATUS),
        (
            Way("204", (b"HTTP/1.1 204 No Content\r\n\r\n",), 204),
            Way("205", (response("205 Reset Content", b"", _TYPE),), 205),
        ),
    ),
    Answers(
        "3xx",
        final(CloseReason.UPSTREAM_STATUS),
        (
            _plain("301 Moved Permanently", "location: /elsewhere"),
            _plain("302 Found", "location: /elsewhere"),
            Way("304", (b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n",), 304),
            _plain("307 Temporary Redirect", "location: /elsewhere"),
        ),
    ),
    Answers(
        "401, 403",
        final(CloseReason.UNAUTHORIZED),
        (_plain("401 Unauthorized"), _plain("403 Forbidden")),
    ),
    Answers(
        "404, 410 and any other 4xx that is not in `on_status`, with any type",
        final(CloseReason.UPSTREAM_STATUS),
        (
            _plain("400 Bad Request"),
            _plain("404 Not Found"),
            _plain("404 Not Found", _TYPE),
            _plain("410 Gone"),
            _plain("418 I'm a teapot"),
        ),
    ),
    Answers(
        "409, which is in `on_status` by default",
        CONFLICT,
        (_plain("409 Conflict"),),
    ),
    Answers(
        "another status of `on_status`: 429, 500, 502, 503, 504 by default",
        MENDABLE,
        (
            _plain("429 Too Many Requests"),
            _plain("500 Internal Server Error"),
            _plain("502 Bad Gateway", "content-type: text/html"),
            _plain("503 Service Unavailable"),
            _plain("504 Gateway Timeout"),
            _plain("503 Service Unavailable", _TYPE),
        ),
    ),
    Answers(
        "the same with a `Retry-After` that is too long: beyond `first_within` and `give_up_after`",
        MUCH_LATER,
        (
            _plain("503 Service Unavailable", "retry-after: 3600"),
            _plain("429 Slow Down", "retry-after: 3600"),
        ),
    ),
    Answers(
        "any other 5xx",
        final(CloseReason.UPSTREAM_STATUS),
        (_plain("501 Not Implemented"), _plain("505 HTTP Version Not Supported"), _plain("520 Odd")),
    ),
    Answers(
        "101 for a request without an upgrade",
        Follows(
            Ours(),
            Ours(),
            Ends(CloseReason.UPSTREAM_STATUS, told=True),
            Ends(CloseReason.UPSTREAM_STATUS, told=True),
            Ends(CloseReason.UPSTREAM_STATUS),
        ),
        (Way("101", (_SWITCHING,), 502, told=101),),
    ),
    Answers("the port refuses the connection", REFUSED, (Way("refused", Trouble.REFUSED, 502),)),
    Answers("the name cannot be resolved", REFUSED, (Way("no name", Trouble.UNKNOWN_NAME, 502),)),
    Answers("no connection within `connect_timeout`", REFUSED, (Way("late", Trouble.NO_CONNECTION, 504),)),
    Answers(
        "no complete head within `open_timeout`",
        REFUSED,
        (
            _fault("nothing", HOLD, status=504, stream=_SLOW),
            _fault("half a head, then nothing", _HALF_HEAD, HOLD, status=504, stream=_SLOW),
        ),
    ),
    Answers(
        "upstream closes or resets the connection before its head, or in the middle of it",
        BROKEN,
        (
            _fault("closed before the head", CLOSE),
            _fault("reset before the head", RESET),
            _fault("closed in the head", _HALF_HEAD, CLOSE),
            _fault("reset in the head", _HALF_HEAD, RESET),
        ),
    ),
    Answers(
        "the answer is not HTTP/1.1",
        REFUSED,
        (
            _fault("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n"),
            _fault("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"),
            _fault("an endless head", b"HTTP/1.1 200 OK\r\n" + b"a: bcdefgh\r\n" * 30_000),
        ),
    ),
)


# How a stream is lost.


@dataclass(frozen=True, slots=True)
class Loss:
    """A row: what upstream does in the middle of its stream, after whole blocks, and what comes of it where
    upstream is not asked again, and where it is. `head`: its response head when it is no chunked one;
    `stream` as in `Way`.
    """

    title: str
    reason: CloseReason
    does: tuple[Step, ...]
    kept: Outcome = GoesOn()
    head: bytes = stream_head()
    stream: str = ""


_HALF = b"data: ha"
_END, _RESET = CloseReason.UPSTREAM_END, CloseReason.UPSTREAM_RESET
_TO_CLOSE = stream_head(chunked=False)
_SIZED = stream_head("content-length: 500", chunked=False)
_MORE = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret"

LOSSES = (
    Loss("between blocks: its last chunk", _END, (LAST_CHUNK,)),
    Loss("between blocks: closed, and the close delimits the body", _END, (CLOSE,), head=_TO_CLOSE),
    Loss("between blocks: closed without the last chunk", _RESET, (CLOSE,)),
    Loss("between blocks: reset", _RESET, (RESET,)),
    Loss("between blocks: reset, where a close would delimit the body", _RESET, (RESET,), head=_TO_CLOSE),
    Loss("between blocks: closed before the end of the `Content-Length`", _RESET, (CLOSE,), head=_SIZED),
    Loss("in the middle of a block: its last chunk", _END, (chunk(_HALF), LAST_CHUNK)),
    Loss(
        "in the middle of a block: closed, and the close delimits the body",
        _END,
        (_HALF, CLOSE),
        head=_TO_CLOSE,
    ),
    Loss("in the middle of a block: closed", _RESET, (chunk(_HALF), CLOSE)),
    Loss("in the middle of a block: reset", _RESET, (chunk(_HALF), RESET)),
    Loss("in the middle of a chunk: closed", _RESET, (b"40\r\n" + _HALF, CLOSE)),
    Loss("in the middle of a chunk: reset", _RESET, (b"40\r\n" + _HALF, RESET)),
    Loss("in the middle of a chunk's head: closed", _RESET, (b"4", CLOSE)),
    Loss("broken chunked coding", _RESET, (b"no chunk\r\n", HOLD)),
    Loss("after the end: bytes after the last chunk, which are dropped", _END, (LAST_CHUNK + _MORE, HOLD)),
    Loss("after the end: reset after the last chunk", _END, (LAST_CHUNK, RESET)),
    Loss(
        "no sign of life for `stall.after`, with `stall.action: reconnect` and a `close_after`",
        CloseReason.STALLED,
        (HOLD,),
        stream="stall: {after: 500ms, sign_of_life: events, action: reconnect, close_after: 2s}",
    ),
    Loss(
        "a block larger than `max_event`",
        CloseReason.EVENT_TOO_LARGE,
        (chunk(b"data: " + b"x" * 70_000), HOLD),
        kept=Ends(CloseReason.EVENT_TOO_LARGE),
        stream="max_event: 64KiB",
    ),
)


# Whose upstream is asked again.


class Again(StrEnum):
    """Whether a lost upstream is asked again; the value is what stands in the table."""

    NOT = "ends"
    FROM_NOW = "opened again"
    FROM_ID = "opened again, with the id"


@dataclass(frozen=True, slots=True)
class Who:
    """A row: a client, and what becomes of its lost upstream by `reconnect.when`. `blocks`: what upstream has
    sent; `sends`: the id it is asked with where it is.
    """

    title: str
    resumable: Again
    always: Again
    blocks: bytes = b"data: 1\n\n"
    sends: str = ""
    headers: tuple[str, ...] = (EVENT_SOURCE,)
    method: str = "GET"
    body: bytes = b""
    off: Again = Again.NOT


_WITH_ID = b"id: 7\ndata: 1\n\n"
_OTHER = ("Accept: */*",)
_OWN_ID = "Last-Event-ID: own"

WHO = (
    Who("EventSource, no id seen", Again.NOT, Again.FROM_NOW),
    Who("EventSource, an id seen", Again.FROM_ID, Again.FROM_ID, _WITH_ID, "7"),
    Who(
        "EventSource with its own `Last-Event-ID`, no newer id seen",
        Again.FROM_ID,
        Again.FROM_ID,
        sends="own",
        headers=(EVENT_SOURCE, _OWN_ID),
    ),
    Who(
        "EventSource whose latest id is empty",
        Again.NOT,
        Again.FROM_NOW,
        _WITH_ID + b"id\ndata: 2\n\n",
        headers=(EVENT_SOURCE, _OWN_ID),
    ),
    Who(
        "EventSource whose latest id has a control character, which a header cannot contain",
        Again.NOT,
        Again.FROM_NOW,
        _WITH_ID + b"id: \x01\ndata: 2\n\n",
    ),
    Who(
        "EventSource whose latest id is over 4 KiB",
        Again.NOT,
        Again.FROM_NOW,
        _WITH_ID + b"id: " + b"x" * 4097 + b"\ndata: 2\n\n",
    ),
    Who("any other `GET` without a body, no id seen", Again.NOT, Again.FROM_NOW, headers=_OTHER),
    Who(
        "any other `GET` without a body, an id seen", Again.NOT, Again.FROM_ID, _WITH_ID, "7", headers=_OTHER
    ),
    Who("a `GET` with a body", Again.NOT, Again.NOT, _WITH_ID, body=b"{}"),
    Who("`POST`, with a body", Again.NOT, Again.NOT, _WITH_ID, method="POST", body=b'{"stream":true}'),
    Who("`POST` and every other method, without a body", Again.NOT, Again.NOT, _WITH_ID, method="POST"),
)


# The page.

_INTRODUCTION = """\
# What a client sees of upstream's faults

<!-- Written by `make docs` from `tests/integration/outcomes.py`; a test plays every cell. Do not edit. -->

Upstream can end, break, refuse or restart. These tables show what the client of a stream route sees: for
every status, media type and fault, before it has an answer and during its stream. The keys are those of
`reconnect` and `early_commit` in the [configuration](configuration.md). The reasons are the values of
`reason` in `sse_proxy_streams_closed_total`, in the log line `stream closed` and in `stream_closing`.

An *EventSource* is a client of the family `browser` ([client families](behaviour.md#client-families)).
"""

_WHO = """\
## Which streams are opened again

A request with a body is never repeated, so the answer of a language model is not paid for twice. *Ends*
means that the client's stream ends when upstream ends. If the request has the id of the last event,
upstream can send the missed events. Without an id it begins with the next event.
"""

_LOSSES = """\
## A running stream is lost

Whole blocks before the fault are delivered. An unfinished block is discarded and never joined to later
bytes. If the stream goes on, the client gets a notice of the gap: the event `stream_recovered` with
`{"reason":…,"gap_ms":…,"resumed":…}`, or a comment with the same data if the confirm is a comment. There is
no notice if `reconnect.announce` is false. Pings continue during the gap. The reason of the loss is the
reason of the gap or of the end.
"""

_ANSWERS = """\
## What upstream answers

In the first two columns the client has no status yet, and it gets the real one. An EventSource does not
reconnect after an error status, so the proxy repeats the attempt for `first_within`, and the last answer
counts.

In the next two columns the client already has its 200 from `early_commit`. (For an answer before
`early_commit.after`, see the first two columns.) An answer that is not a stream is reported as the event
`proxy_error` with `{"type","status","message"}`, or as an error in the words of the client's
[family](behaviour.md#late-errors). The next request with the same credential waits for the
real status, except after `give_up` with a 5xx or without an answer. Here, too, an
EventSource first has its `first_within`. The table of clients shows whether
upstream is opened again after that, for a client without an id.

The last column is a running stream that has lost its upstream. The proxy opens it again, until
`give_up_after`.

- *As it is*: upstream's own answer, unchanged.
- *502*, *504*: one line of the proxy with the name of the route.
- *Ends*: after a `stream_closing` with the reason, if the confirm is an event; otherwise after an error in
  the words of the [family](behaviour.md#late-errors) and with a cut, so that nothing looks complete.
- *Repeated*: new attempts with growing random waits, never sooner than `Retry-After` and upstream's own
  `retry:` allow. If upstream then answers with a stream, the client gets this stream.
"""

_IMPOSSIBLE = """\
## What the proxy cannot repair

- **An expired token.** The proxy reconnects with the client's own credentials. If upstream answers 401 or
  403, the stream ends with reason `unauthorized`. Only the page can get a new token.
- **Events of a gap.** They are lost, unless upstream stores them and resumes with `Last-Event-ID`.
  `stream_recovered` with `"resumed":false` means that events may be missing. A page that must not miss any
  reloads its state then. With `"resumed":true` upstream got the id, but it may ignore it.
- **A status that was sent.** An answer after an early commit is only visible inside the stream, and to a
  browser only if it listens for `proxy_error`.
- **A server with one place per user.** Two streams of one user evict each other. The waits between the
  attempts grow, because an answer alone is not a sign of life.
"""


def markdown() -> str:
    """The page."""
    parts = [
        _INTRODUCTION,
        _WHO,
        *_table(("client", "`off`", "`resumable`", "`always`"), map(_who, WHO)),
        _LOSSES,
        *_table(("upstream", "reason", "without reconnect", "with reconnect"), map(_loss, LOSSES)),
        _ANSWERS,
        *_table(
            (
                "upstream",
                "first opening, EventSource",
                "first opening, others, or with `off`",
                "after an early commit, no reconnect",
                "after an early commit, reconnect",
                "lost, reconnect",
            ),
            map(_answers, ANSWERS),
        ),
        _IMPOSSIBLE,
    ]
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: object) -> list[str]:
    assert isinstance(rows, map)
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _who(row: Who) -> tuple[str, ...]:
    return (row.title, row.off.value, row.resumable.value, row.always.value)


def _loss(row: Loss) -> tuple[str, ...]:
    return (row.title, f"`{row.reason}`", _alone(row.reason), _words(row.kept, ()))


def _alone(reason: CloseReason) -> str:
    match reason:
        case CloseReason.UPSTREAM_END:
            return "the end"
        case CloseReason.UPSTREAM_RESET:
            return "a cut: no last chunk"
        case CloseReason.STALLED:
            return "`stalled`, then ends"
        case _:
            return "ends"


def _answers(row: Answers) -> tuple[str, ...]:
    statuses = tuple(dict.fromkeys(way.status for way in row.ways))
    return (row.title, *(_words(row.follows.of(column), statuses) for column in Column))


def _words(outcome: Outcome, statuses: tuple[int, ...]) -> str:
    match outcome:
        case Begins():
            return "the stream"
        case GoesOn():
            return "goes on, with a notice"
        case Passes(again=again):
            return "repeated, then as it is" if again else "as it is"
        case Ours(again=again):
            ours = " or ".join(map(str, statuses))
            return f"repeated, then {ours}" if again else ours
        case Ends(reason=reason, told=told, again=again):
            before = "repeated, then " if again else ""
            return f"{before}{'`proxy_error`, ' if told else ''}ends: `{reason}`"


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201
