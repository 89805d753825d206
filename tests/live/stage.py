"""A stream between an upstream and a client whose every move is the test's, on a clock that is too.

What stands in for the two connections does what asyncio's transports do, and refuses what a real one
could not survive: a write after the end, a read while paused. Asking upstream again is up to the test:
`Stage.reopen` and `Stage.fail` say what comes of an attempt.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from hypothesis import strategies as st

from sse_keepalive_proxy.http.attempts import Answer, Target
from sse_keepalive_proxy.http.chunked import chunk
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.live.backlog import Backlog
from sse_keepalive_proxy.live.reconnect import Reconnection
from sse_keepalive_proxy.live.route import StreamRoutes
from sse_keepalive_proxy.live.stream import Stream
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.stream.messages import CloseReason, NotOpened
from sse_keepalive_proxy.stream.policy import (
    Confirm,
    ConfirmForm,
    Family,
    Keepalive,
    KeepaliveForm,
    SignOfLife,
    Stall,
    StallAction,
    StreamPolicy,
    Terminator,
)
from tests.support import sse_reference
from tests.support.clock import ManualClock
from tests.support.http1 import LAST_CHUNK, Dechunker
from tests.wire.bodies import BOM, bodies, chunkings, cut_blocks, released_by

__all__ = [
    "EVERYTHING", "HEAD", "INTERVAL", "OUR_TYPES", "POLICY", "STALLED_AFTER", "Attempts", "ClientSide",
    "Moment", "Stage", "UpstreamSide", "check_bytes", "check_end", "check_meaning", "is_ours", "policies",
    "stories", "streams", "tell",
]  # fmt: skip

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
INTERVAL = 10.0
STALLED_AFTER = 25.0

# Names that no body of these tests holds, so that what is ours can be told from what is upstream's.
POLICY = StreamPolicy(
    confirm=Confirm(event="our_confirm"),
    keepalive=Keepalive(interval=INTERVAL, text="our ping", event="our_ping"),
    stall=None,
    max_buffer=100,
    write_timeout=1e6,
)
OUR_TYPES = {"our_confirm", "our_ping", "stalled", "stream_recovered", "stream_closing", "proxy_error"}
OUR_COMMENTS = ("our ping", "stalled silent_for=", "stream_recovered ")
PING_LINE = re.compile(rb":our ping[^\r\n]*\n")
NOT_OURS = {"client_gone", "client_stalled", "upstream_end", "upstream_reset"}
PADDING = 64
OURS = (
    b":ok\n",
    b":our ping",
    b":stalled ",
    b":stream_recovered ",
    b":" + b" " * (PADDING - 3),
    *(b"event: " + kind.encode() for kind in OUR_TYPES),
)


@dataclass(frozen=True, slots=True)
class Write:
    """One write to the client: when, and how many bytes upstream had sent by then."""

    data: bytes
    at: float
    fed: int


class ClientSide(asyncio.Transport):
    """The client's transport. `takes`: whether bytes leave at once; else they wait for `take`, as
    `waiting` does from before.
    """

    def __init__(self, stage: Stage, waiting: bytes) -> None:
        super().__init__()
        self.writes: list[Write] = []
        self.taken = b""
        self.waiting = waiting
        self.takes = not waiting
        self.aborted = self.lost = self.left = False
        self._stage = stage
        self._closing, self._paused = False, bool(waiting)
        self._protocol: asyncio.Protocol | None = None

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 1

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes) -> None:
        assert data
        assert not self._closing
        self.writes.append(Write(data, self._stage.clock(), len(self._stage.fed)))
        self.waiting += data
        if self.takes:
            self._leave(len(self.waiting))
        elif not self._paused and len(self.waiting) > 1 and self._protocol is not None:
            self._paused = True
            self._protocol.pause_writing()

    def take(self, count: int) -> None:
        """The client takes so many of the bytes that wait."""
        self._leave(count)
        if self.waiting:
            return
        if self._paused and self._protocol is not None:
            self._paused = False
            self._protocol.resume_writing()
        if self._closing:
            self._force_close()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self.waiting:
                self._force_close()

    def abort(self) -> None:
        self.aborted = self._closing = True
        self.waiting = b""
        self._force_close()

    def leave(self, error: Exception | None = None) -> None:
        """The client is gone."""
        self.left = True
        self._closing = True
        self.waiting = b""
        self._force_close(error)

    def _leave(self, count: int) -> None:
        self.taken += self.waiting[:count]
        self.waiting = self.waiting[count:]

    def _force_close(self, error: Exception | None = None) -> None:
        if not self.lost and self._protocol is not None:
            self.lost = True
            self._stage.clock.call_later(0, self._protocol.connection_lost, error)


class UpstreamSide:
    """A real exchange, its answer begun, over a connection that is none. `early`: what of the body came with
    the head. `over`: it has ended by itself; `closed`: it was let go before.
    """

    def __init__(self, early: bytes = b"", *, status: int = 200) -> None:
        self.paused = self.over = self.closed = False
        self.unread: list[bytes] = []
        self.exchange = Exchange(head_only=False)
        self.exchange.connection_made(cast(Any, self))
        head = b"HTTP/1.1 %d OK\r\ncontent-type: text/event-stream\r\n" % status
        head += b"transfer-encoding: chunked\r\n\r\n"
        self.exchange.data_received(head + (chunk(early) if early else b""))

    @property
    def speaks(self) -> bool:
        """Whether what it sends is read."""
        return not self.is_closing() and not self.paused

    def send(self, data: bytes) -> None:
        """Some bytes of the body, in one read."""
        self.read_now()
        self.exchange.data_received(chunk(data))

    def write(self, data: bytes) -> None:
        """Some bytes of the body, `b""` its end, which nothing has read yet."""
        self.unread.append(chunk(data) if data else LAST_CHUNK)

    def end(self) -> None:
        """The body is whole."""
        self.write(b"")
        self.read_now()

    def breaks(self) -> None:
        """The connection is gone."""
        self.read_now()
        self.over = True
        self.exchange.connection_lost(ConnectionResetError())

    # The exchange's transport.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Do nothing: it is its own socket, too."""

    def is_closing(self) -> bool:
        return self.over or self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def read_now(self, reads: int = 1) -> None:
        assert reads
        if self.unread and not self.is_closing():
            unread, self.unread = self.unread, []
            self.over = LAST_CHUNK in unread
            self.exchange.data_received(b"".join(unread))

    def abort(self) -> None:
        self.closed = not self.over


class Attempts:
    """What a stream asks of a `Reconnection`: a real one but for the asking, which the test does."""

    def __init__(self, policy: StreamPolicy, known: bytes, *, always: bool) -> None:
        nobody = cast(Target, None)
        self.real = Reconnection(nobody, policy.reconnect, b"GET / HTTP/1.1\r\n", known, always=always)
        self.under_way = False
        self.started = 0
        self.sent_at: float | None = None
        self.came = b""  # what the stream has brought that is the answer, before that was handled

    @property
    def allowed(self) -> bool:
        return self.real.allowed

    @property
    def resumes(self) -> bool:
        return self.real.resumes

    @property
    def wait(self) -> float:
        return self.real.wait

    def may_have_more(self, events: int, lived: float) -> bool:
        return self.real.may_have_more(events, lived)

    def read(self, blocks: bytes) -> bytes | None:
        return self.real.read(blocks)

    def saw_event(self) -> None:
        self.real.saw_event()

    def start(self, listener: Stream) -> None:
        assert not self.under_way
        self.under_way = True
        self.started += 1
        self.sent_at = listener.route.now()

    def expect(self, listener: Stream) -> None:
        """Upstream never comes back by itself here."""

    @property
    def busy(self) -> bool:
        return self.under_way

    def answered(self) -> None:
        """Upstream has answered."""
        assert self.under_way
        self.under_way = False

    @property
    def is_answered(self) -> bool:
        return self.under_way and bool(self.came)

    def read_out(self) -> bytes:
        came, self.came = self.came, b""
        return came if self.under_way else b""

    def cancel(self) -> bool:
        was, self.under_way = self.under_way, False
        return was


class Stage:
    """One stream, begun. What upstream sends while it is paused comes once it is not.

    `attempts` (see there) make it one that upstream can be asked for again; `sent` holds what each of its
    upstreams has sent, `fed` what the newest has. `early` is what came with the first one's head, `claims`
    are the client's.
    """

    def __init__(
        self,
        policy: StreamPolicy = POLICY,
        *,
        form: ConfirmForm | None = ConfirmForm.EVENT,
        family: Family | None = None,
        chunked: bool = True,
        gone: bool = False,
        waiting: bytes = b"",
        attempts: Attempts | None = None,
        early: bytes = b"",
        claims: dict[str, Any] | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.policy, self.form, self.chunked = policy, form, chunked
        self.streams = Registry(10, None)
        self.metrics = Metrics(self.streams, self.clock)
        self.backlog = Backlog(1 << 30)
        self.in_the_kernel = b""
        self.client = ClientSide(self, waiting)
        self.attempts, self.sent = attempts, [early]
        reconnection = cast(Any, attempts)
        with running(self.clock):
            self.upstream = UpstreamSide(early)
            routes = StreamRoutes(
                "events", confirming(policy, form), self.metrics.route("events"), self.streams, self.backlog
            )
            family = family or (Family.HTTP if form is None else Family.BROWSER)
            self.route = routes.for_client(family, Terminator.AUTO)
            self.stream = Stream(
                self.route, stream_id="1", client="127.0.0.1", target="/events", reconnection=reconnection
            )
        self.stream.claims = claims
        self.streams.add(self.stream)

        def take_over(protocol: asyncio.Protocol) -> asyncio.Transport:
            if gone:
                raise ConnectionError("the client has left")
            self.client.set_protocol(protocol)
            return self.client

        if self.stream.begin(take_over, chunked=chunked):
            self.stream.commit(HEAD, self.upstream.exchange)

    @property
    def fed(self) -> bytes:
        """What the newest upstream has sent, so far as it was read."""
        return self.sent[-1]

    def feed(self, data: bytes) -> None:
        """Upstream sends `data`."""
        self.in_the_kernel += data
        self.read()

    def read(self) -> None:
        """Upstream's bytes come to the stream, unless it has paused them or let upstream go."""
        if self.in_the_kernel and self.upstream.speaks:
            data, self.in_the_kernel = self.in_the_kernel, b""
            self.sent[-1] += data
            self.upstream.send(data)

    def take(self, count: int) -> None:
        """The client takes `count` bytes that wait for it."""
        self.client.take(count)
        self.read()

    def take_all(self) -> None:
        """The client takes everything there is and will be."""
        self.client.takes = True
        while self.client.waiting or (self.in_the_kernel and not self.upstream.is_closing()):
            self.take(len(self.client.waiting))

    def settle(self) -> None:
        """The client takes everything, and the end of the stream comes, which a reset delays by a moment."""
        self.take_all()
        self.clock.advance(0 if self.stream.life.close_reason is None else 0.2)

    def end(self, how: str) -> None:
        """The stream ends, or does not."""
        if not self.upstream.is_closing() and how in ("upstream ends", "upstream breaks"):
            self.lose(how)
        elif how == "drain":
            self.stream.leave(self.clock(), CloseReason.DRAIN)
        elif how == "the client leaves":
            self.client.leave()
        self.clock.advance(0)
        self.settle()

    def lose(self, how: str = "upstream breaks") -> None:
        """Upstream ends or breaks."""
        assert not self.upstream.is_closing()
        self.upstream.end() if how == "upstream ends" else self.upstream.breaks()

    def reopen(self, early: bytes = b"") -> None:
        """Upstream is another one from now on, which sent `early` along with its head."""
        self.answered()
        self.sent.append(early)
        self.in_the_kernel = b""
        with running(self.clock):
            self.upstream = UpstreamSide(early)
        head = ResponseHead(200, b"OK", ((b"content-type", b"text/event-stream"),))
        self.stream.reopened(Answer(self.upstream.exchange, head))

    def fail(self, failed: NotOpened) -> None:
        """The attempt came to nothing."""
        self.answered()
        head = ResponseHead(503, b"", ())
        self.stream.not_reopened(failed, (503, "upstream answered with status 503"), head)

    def ask(self) -> bool:
        """Time goes by until upstream is asked again; false when the stream ends before."""
        assert self.attempts is not None
        while not self.attempts.under_way and self.stream.life.close_reason is None:
            self.clock.advance(0.25)
        return self.attempts.under_way

    def answered(self) -> None:
        """An attempt is over."""
        assert self.attempts is not None
        self.attempts.answered()

    @property
    def closed(self) -> dict[str, float]:
        """The close reasons counted, and how often."""
        families = {family.name: family for family in self.metrics.registry.collect()}
        samples = families["sse_proxy_streams_closed"].samples
        return {sample.labels["reason"]: sample.value for sample in samples if sample.value}

    # What the client got.

    def pieces(self) -> list[Write]:
        """The writes without the head and the chunked coding. A chunk is whole in one write."""
        head, *writes = self.client.writes
        assert head.data.startswith(HEAD)
        writes.insert(0, replace(head, data=head.data.removeprefix(HEAD)))
        if not self.chunked:
            return [write for write in writes if write.data]
        if writes[-1].data == LAST_CHUNK:
            writes.pop()
        found = []
        for write in writes:
            coding = Dechunker()
            data = coding.feed(write.data)
            assert coding.chunk_sizes == ([len(data)] if data else [])
            if data:
                found.append(replace(write, data=data))
        return found

    def body(self) -> bytes:
        """The body of all writes, the chunked coding read as strictly as a client reads it."""
        raw = b"".join(write.data for write in self.client.writes).removeprefix(HEAD)
        if not self.chunked:
            return raw
        coding = Dechunker()
        body = coding.feed(raw)
        assert coding.ended or self.client.writes[-1].data != LAST_CHUNK  # upstream may end a line so
        assert coding.rest == b""
        return body


def confirming(policy: StreamPolicy, form: ConfirmForm | None) -> StreamPolicy:
    """`policy` with a confirm of this form, whatever the family; None: without one."""
    confirm = None if form is None else replace(policy.confirm or Confirm(), form=form)
    return replace(policy, confirm=confirm)


@contextmanager
def running(clock: ManualClock) -> Iterator[None]:
    """The clock is the running loop: a stream asks it for the time and for timers, and for nothing else."""
    asyncio._set_running_loop(clock)  # type: ignore[arg-type]
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


def is_ours(piece: bytes) -> bool:
    return piece.removeprefix(b"\n").startswith(OURS)


def check_bytes(stage: Stage) -> None:
    """Without our frames, the client has upstream's bytes: up to a block boundary, and of an unfinished block
    what was forwarded. Each frame of ours stands behind every block that was whole when it was written, or
    is a ping that ends in one newline, between two lines of a block that is forwarded as it comes.
    """
    pieces = stage.pieces()
    ours_first = bool(pieces) and is_ours(pieces[0].data)
    sent = stage.fed.removeprefix(BOM) if ours_first else stage.fed
    bom = len(stage.fed) - len(sent)
    begun = 0 if bom else len(sent) - len(sent.removeprefix(BOM))
    given = 0
    lf_is_ours = False

    def released(known: bytes) -> int:
        return begun + released_by(known[begun:]) if len(known) > begun else 0

    for piece in pieces:
        if not is_ours(piece.data):
            given += lf_is_ours and sent[given : given + 1] == b"\n"
            lf_is_ours = False
            assert sent[given : given + len(piece.data)] == piece.data
            given += len(piece.data)
            continue
        if piece.data.startswith(b"\n"):
            assert sent[given - 1 : given] == b"\r"
            lf_is_ours = True
        known = sent[: max(piece.fed - bom, 0)]
        whole = given + (lf_is_ours and known[given : given + 1] == b"\n")
        assert whole >= released(known)
        if whole != released(known[:whole]):
            assert known[given - 1] in b"\r\n"
            assert PING_LINE.fullmatch(piece.data.removeprefix(b"\n"))
        assert b"\nid:" not in b"\n" + piece.data
        assert (b"\nretry:" in piece.data) == (b"event: stream_closing\n" in piece.data)
    given += lf_is_ours and sent[given : given + 1] == b"\n"
    assert given >= released(sent)
    if stage.stream.life.close_reason == "upstream_end":
        assert given == len(sent)
    assert stage.stream.flow.events == sum(map(_has_data, cut_blocks(sent[begun:given])))


def _has_data(block: bytes) -> bool:
    """Whether `block`, perhaps unfinished, has data: a whole line of it, or the beginning of one."""
    *lines, last = (block + b"x").splitlines()
    return any(line.split(b":")[0] == b"data" for line in lines) or last.startswith(b"data:")


def meant(stage: Stage) -> bytes:
    """What upstream's connections have sent, one behind the other: of each its whole blocks, and no LF of one
    taken for the end of another's line.
    """
    whole = b""
    for sent in (sent.removeprefix(BOM) for sent in stage.sent):
        blocks = sent[: released_by(sent)]
        whole += blocks + (b"\n" if blocks.endswith(b"\r") else b"")
    return whole


def check_meaning(stage: Stage) -> None:
    """A client reads upstream's events and comments as it would have without us."""
    whole = sse_reference.parse(b"\n" + meant(stage))  # the LF: a second mark is text
    got = sse_reference.parse(b"\n" + stage.body())
    assert [event for event in got.events if event.type not in OUR_TYPES] == whole.events
    others = [text for text in got.comments if not text.startswith(OUR_COMMENTS) and text.strip()]
    confirm = stage.policy.confirm
    if stage.form is ConfirmForm.COMMENT or (confirm is not None and confirm.wait):
        assert others.pop(0) == "ok"
    theirs = [text for text in whole.comments if text.strip()]
    assert others[: len(theirs)] == theirs
    pings = sum(event.type == "our_ping" for event in got.events)
    pings += sum(text.startswith("our ping") for text in got.comments)
    assert pings == stage.stream.pings
    assert got.last_event_id == whole.last_event_id


def check_end(stage: Stage) -> None:
    """One reason, and an end that fits it: whole, announced, or broken off."""
    reason = stage.stream.life.close_reason
    last = stage.client.writes[-1].data
    if reason is None:
        assert stage.closed == {}
        assert not stage.client.is_closing()
        assert not stage.upstream.closed
        return
    assert stage.closed == {reason.value: 1}
    stage.clock.advance(0.2)  # a reset waits until the client has taken everything
    assert stage.client.lost
    assert not any(stage.route.timers._sleepers.values())
    assert len(stage.streams) == 0
    left_first = reason in ("client_gone", "client_stalled")
    events = sse_reference.parse(stage.body()).events
    closings = [event for event in events if event.type == "stream_closing"]
    announced = stage.form is ConfirmForm.EVENT and reason not in NOT_OURS
    announced = announced and not stage.stream.life.in_block  # nothing can be told there
    told = stage.form is None and reason not in NOT_OURS and not stage.stream.life.in_block
    assert [event.type for event in events].count("proxy_error") == told
    if not left_first:
        whole = announced or reason == "upstream_end"
        assert (last == LAST_CHUNK) == (stage.chunked and whole)
        assert stage.client.aborted or stage.client.left or stage.chunked or whole
    assert [json.loads(event.data)["reason"] for event in closings] == [reason.value] * announced


_BEGINNING = re.compile(rb"(?:%b)?(?:[:\r\n]|(?:data|event|id|retry)[:\r\n])" % BOM)
streams = bodies.map(lambda body: body if _BEGINNING.match(body) else b"\n" + body)
"""Bodies of every shape that begin like an event stream, however they are cut."""

# A whole story: bytes from upstream; a float, so many seconds pass; an int, the client takes so many bytes
# of those that wait; None, from now on they wait.

Moment = bytes | float | int | None
EVERYTHING = 10**6  # and from now on again at once
CODING = 8  # bytes of chunked coding around a short chunk
MOMENTS = st.one_of(
    st.sampled_from([INTERVAL, INTERVAL + 1, 0.5, STALLED_AFTER]),
    st.sampled_from([None, None, 1, 7, EVERYTHING]),
)


@st.composite
def stories(draw: st.DrawFn) -> list[Moment]:
    """What happens to a stream between its beginning and its end."""
    moments: list[Moment] = []
    for piece in draw(chunkings(streams)):
        moments += draw(st.lists(MOMENTS, max_size=2))
        moments += [piece] if piece else []
    return moments + draw(st.lists(MOMENTS, max_size=3))


policies = st.builds(
    lambda wait, padding, form, terminator, report, least, close_after: replace(
        POLICY,
        confirm=Confirm(event="our_confirm", wait=wait, padding=padding),
        keepalive=Keepalive(INTERVAL, form, "our ping", terminator, "our_ping", report_idle=report),
        stall=Stall(STALLED_AFTER, least, action=StallAction.NOTIFY, close_after=close_after),
    ),
    st.sampled_from([0.0, 0.4, INTERVAL + 2]),
    st.sampled_from([0, 0, PADDING]),
    st.sampled_from(KeepaliveForm),
    st.sampled_from(Terminator),
    st.booleans(),
    st.sampled_from(SignOfLife),
    st.sampled_from([None, None, 30.0]),
)


def tell(stage: Stage, moments: list[Moment]) -> None:
    for moment in moments:
        match moment:
            case bytes():
                stage.feed(moment)
            case float():
                stage.clock.advance(moment)
            case int():
                stage.take(moment)
            case None:
                stage.client.takes = False
        if moment == EVERYTHING:
            stage.client.takes = True
        writes = stage.client.writes
        longest = max(len(write.data) for write in writes)
        ours = stage.stream.flow.sent_synthetic + CODING * len(writes)
        assert len(stage.client.waiting) <= stage.policy.max_buffer + longest + ours
