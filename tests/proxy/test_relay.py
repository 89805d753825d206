"""The relay between an upstream and a client whose every move is the test's, on a clock that is too.

What stands in for the two connections does what asyncio's transports do, and refuses what a real one
could not survive: a write after the end, a read while paused.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.errors import UpstreamReset
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.proxy.relay import Relay
from sse_keepalive_proxy.proxy.stream_route import StreamRoute
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import (
    Confirm,
    ConfirmForm,
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
from tests.wire.bodies import BOM, chunkings, released_by
from tests.wire.test_framing import first_too_large

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
OUR_TYPES = {"our_confirm", "our_ping", "stalled", "stream_closing"}
OUR_COMMENTS = ("our ping", "stalled silent_for=")
ANNOUNCED = {"stalled", "event_too_large", "drain", "internal"}
PADDING = 64
OURS = (
    b":ok\n",
    b":our ping",
    b":stalled ",
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
        self.aborted = self.lost = False
        self._stage = stage
        self._closing, self._paused = False, bool(waiting)
        self._protocol: asyncio.Protocol | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

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
        elif not self._paused and self._protocol is not None:
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
            self._lose()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self.waiting:
                self._lose()

    def abort(self) -> None:
        self.aborted = self._closing = True
        self.waiting = b""
        self._lose()

    def leave(self, error: Exception | None = None) -> None:
        """The client is gone."""
        self._closing = True
        self.waiting = b""
        self._lose(error)

    def _leave(self, count: int) -> None:
        self.taken += self.waiting[:count]
        self.waiting = self.waiting[count:]

    def _lose(self, error: Exception | None = None) -> None:
        if not self.lost and self._protocol is not None:
            self.lost = True
            self._stage.clock.call_later(0, self._protocol.connection_lost, error)


class UpstreamSide:
    """What a relay asks of an exchange."""

    def __init__(self) -> None:
        self.sink: Relay | None = None
        self.paused = self.closed = False

    def attach(self, sink: Relay) -> None:
        self.sink = sink

    def pause(self) -> None:
        assert not self.closed
        self.paused = True

    def resume(self) -> None:
        assert not self.closed
        self.paused = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self.sink = None


class Stage:
    """One stream, begun. What upstream sends while it is paused comes once it is not."""

    def __init__(
        self,
        policy: StreamPolicy = POLICY,
        *,
        form: ConfirmForm | None = ConfirmForm.EVENT,
        chunked: bool = True,
        gone: bool = False,
        waiting: bytes = b"",
    ) -> None:
        self.clock = ManualClock()
        self.policy, self.form, self.chunked = policy, form, chunked
        self.streams = Registry(10, None)
        self.metrics = Metrics(self.streams, self.clock)
        self.route = StreamRoute("events", policy, self.metrics.route("events", None), self.streams)
        self.fed = b""
        self.in_the_kernel = b""
        self.client, self.upstream = ClientSide(self, waiting), UpstreamSide()
        with running(self.clock):
            self.relay = Relay(self.route, stream_id="1", client="127.0.0.1", target="/events")
        self.streams.add(self.relay)

        def take_over(protocol: asyncio.BaseProtocol) -> asyncio.Transport:
            if gone:
                raise ConnectionError("the client has gone")
            self.client.set_protocol(protocol)
            return self.client

        self.relay.begin(take_over, self.upstream, HEAD, form, chunked=chunked)

    def feed(self, data: bytes) -> None:
        """Upstream sends `data`."""
        self.in_the_kernel += data
        self.read()

    def read(self) -> None:
        """Upstream's bytes come to the relay, unless it has paused them or let upstream go."""
        if self.in_the_kernel and self.upstream.sink is not None and not self.upstream.paused:
            data, self.in_the_kernel = self.in_the_kernel, b""
            self.fed += data
            self.upstream.sink.data(data)

    def take(self, count: int) -> None:
        """The client takes `count` bytes that wait for it."""
        self.client.take(count)
        self.read()

    def take_all(self) -> None:
        """The client takes everything there is and will be."""
        self.client.takes = True
        while self.client.waiting or (self.in_the_kernel and self.upstream.sink is not None):
            self.take(len(self.client.waiting))

    def end(self, how: str) -> None:
        """The stream ends, or does not."""
        if self.upstream.sink is not None and how in ("upstream ends", "upstream breaks"):
            relay, self.upstream.sink = self.upstream.sink, None
            relay.end() if how == "upstream ends" else relay.failed(UpstreamReset("broke"))
        elif how == "drain":
            self.relay.leave(self.clock(), CloseReason.DRAIN)
        elif how == "the client leaves":
            self.client.leave()
        self.clock.advance(0)
        self.take_all()
        self.clock.advance(0)

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
        assert coding.ended == raw.endswith(LAST_CHUNK)
        assert coding.rest == b""
        return body


@contextmanager
def running(clock: ManualClock) -> Iterator[None]:
    """The clock is the running loop: a relay asks it for the time and for timers, and for nothing else."""
    asyncio._set_running_loop(clock)  # type: ignore[arg-type]
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


def is_ours(piece: bytes) -> bool:
    return piece.removeprefix(b"\n").startswith(OURS)


def check_bytes(stage: Stage) -> None:
    """Without our frames, the client has upstream's bytes up to a block boundary; each frame of ours
    stands behind every block that was whole when it was written.
    """
    sent = stage.fed.removeprefix(BOM)
    bom = len(stage.fed) - len(sent)
    given = 0
    lf_is_ours = False
    for piece in stage.pieces():
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
        assert given + (lf_is_ours and known[given : given + 1] == b"\n") == released_by(known)
        assert b"\nid:" not in b"\n" + piece.data
        assert (b"\nretry:" in piece.data) == (b"event: stream_closing\n" in piece.data)
    given += lf_is_ours and sent[given : given + 1] == b"\n"
    assert given == released_by(sent)


def check_meaning(stage: Stage) -> None:
    """A client reads upstream's events and comments as it would have without us."""
    sent = stage.fed.removeprefix(BOM)
    whole = sse_reference.parse(b"\n" + sent[: released_by(sent)])  # the LF: a second mark is text
    got = sse_reference.parse(b"\n" + stage.body())
    assert [event for event in got.events if event.type not in OUR_TYPES] == whole.events
    others = [text for text in got.comments if not text.startswith(OUR_COMMENTS) and text.strip()]
    confirm = stage.policy.confirm
    if stage.form is ConfirmForm.COMMENT or (confirm is not None and confirm.wait):
        assert others.pop(0) == "ok"
    assert others == [text for text in whole.comments if text.strip()]
    pings = sum(event.type == "our_ping" for event in got.events)
    pings += sum(text.startswith("our ping") for text in got.comments)
    assert pings == stage.relay.pings
    assert got.last_event_id == whole.last_event_id


def check_end(stage: Stage) -> None:
    """One reason, and an end that fits it: whole, announced, or broken off."""
    reason = stage.relay.life.close_reason
    last = stage.client.writes[-1].data
    if reason is None:
        assert stage.closed == {}
        assert not stage.client.is_closing()
        assert not stage.upstream.closed
        return
    assert stage.closed == {reason.value: 1}
    assert stage.client.lost
    assert stage.clock.next_timer() is None
    assert len(stage.streams) == 0
    left_first = reason in ("client_gone", "client_stalled")
    if stage.chunked and not left_first:
        assert (last == LAST_CHUNK) == (reason != "upstream_reset")
    closings = [event for event in sse_reference.parse(stage.body()).events if event.type == "stream_closing"]
    announced = stage.form is ConfirmForm.EVENT and reason in ANNOUNCED
    assert [json.loads(event.data)["reason"] for event in closings] == [reason.value] * announced


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
    for chunk in draw(chunkings()):
        moments += draw(st.lists(MOMENTS, max_size=2))
        moments += [chunk] if chunk else []
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
        ours = stage.relay.sent_synthetic + CODING * len(writes)
        assert len(stage.client.waiting) <= stage.policy.max_buffer + longest + ours


@settings(deadline=None)
@given(
    policies,
    st.sampled_from([ConfirmForm.EVENT, ConfirmForm.COMMENT]),
    st.booleans(),
    stories(),
    st.sampled_from(["upstream ends", "upstream breaks", "drain", "the client leaves", "it lives on"]),
)
def test_whatever_happens_the_client_reads_upstreams_events_in_order_and_ours_between_them(
    policy: StreamPolicy, form: ConfirmForm, chunked: bool, moments: list[Moment], end: str
) -> None:
    stage = Stage(policy, form=form, chunked=chunked)
    tell(stage, moments)
    if end != "the client leaves":
        stage.take_all()
    stage.end(end)
    check_bytes(stage)
    check_meaning(stage)
    check_end(stage)


# One frame of ours, at every place there is.

EVERY_ENDING = [
    b"data: 1\n\ndata: 2\n\n",
    b"data: 1\r\n\r\n: note\r\n\r\ndata: 2\r\n\r\n",
    b"data: 1\r\rdata: 2\rdata: 3\r\r",
    b"id: 4\rdata: 1\r\ndata: 2\n\r\n\ndata: 3\r\n\r",
    BOM + b"event: a\ndata: 1\n\n" + BOM + b"data: not heard\n\n",
]


def closing(stage: Stage) -> None:
    stage.relay.leave(stage.clock(), CloseReason.DRAIN)
    stage.clock.advance(0)


INJECTIONS = {
    "a ping with a blank line": (POLICY, lambda stage: stage.clock.advance(INTERVAL)),
    "a ping with one newline": (
        replace(POLICY, keepalive=Keepalive(INTERVAL, text="our ping", terminator=Terminator.NEWLINE)),
        lambda stage: stage.clock.advance(INTERVAL),
    ),
    "a ping as an event": (
        replace(POLICY, keepalive=Keepalive(INTERVAL, KeepaliveForm.EVENT, event="our_ping")),
        lambda stage: stage.clock.advance(INTERVAL),
    ),
    "the notice of a stall": (
        replace(POLICY, keepalive=None, stall=Stall(STALLED_AFTER, action=StallAction.NOTIFY)),
        lambda stage: stage.clock.advance(STALLED_AFTER),
    ),
    "the closing": (POLICY, closing),
}


@pytest.mark.parametrize("what", INJECTIONS)
@pytest.mark.parametrize("body", EVERY_ENDING)
def test_a_frame_of_ours_fits_between_any_two_bytes_of_upstream(what: str, body: bytes) -> None:
    policy, inject = INJECTIONS[what]
    for at in range(len(body) + 1):
        stage = Stage(policy)
        stage.feed(body[:at])
        before = len(stage.pieces())
        inject(stage)
        assert is_ours(stage.pieces()[before].data)
        stage.feed(body[at:])
        check_bytes(stage)
        check_meaning(stage)
        check_end(stage)


@pytest.mark.parametrize("form", [ConfirmForm.EVENT, ConfirmForm.COMMENT])
@pytest.mark.parametrize("body", EVERY_ENDING)
def test_pings_fit_between_all_bytes_of_upstream_at_once(body: bytes, form: ConfirmForm) -> None:
    stage = Stage(form=form)
    for at in range(len(body)):
        stage.feed(body[at : at + 1])
        stage.clock.advance(2 * INTERVAL)
    assert stage.relay.pings == 2 * len(body)
    check_bytes(stage)
    check_meaning(stage)


def test_the_lf_that_a_ping_needs_behind_a_cr_takes_the_place_of_upstreams() -> None:
    stage = Stage(form=None)
    stage.feed(b"data: 1\r\n\r")
    stage.clock.advance(2 * INTERVAL)
    stage.feed(b"\n")
    stage.clock.advance(INTERVAL)
    stage.feed(b"data: 2\r\r")
    stage.feed(b"\ndata: 3\r\n\r\n")
    ping = b":our ping\n\n"
    assert stage.body() == b"data: 1\r\n\r\n" + 3 * ping + b"data: 2\r\r\ndata: 3\r\n\r\n"


def test_an_lf_of_upstream_that_was_given_already_is_no_empty_chunk_which_would_be_the_end() -> None:
    stage = Stage(form=None)
    stage.feed(b"data: 1\r\r")
    stage.clock.advance(INTERVAL)
    writes = len(stage.client.writes)
    stage.feed(b"\n")
    assert len(stage.client.writes) == writes


# Rewriting.


@settings(deadline=None)
@given(stories(), st.sampled_from(["upstream ends", "it lives on"]))
@example(
    [b"data: 1\r\r", INTERVAL, b"\nevent: add\r\ndata: 2\r\n\r", INTERVAL, b"\nevent: add\rdata: 3\r\r"], ""
)
@example([b": note\revent: add\n\ndata: 1\n\n"], "")
def test_unnamed_events_lose_their_name_and_nothing_else(moments: list[Moment], end: str) -> None:
    stage = Stage(replace(POLICY, unname=frozenset({"Generic", "add"})))
    tell(stage, moments)
    stage.take_all()
    stage.end(end)
    sent = sse_reference.parse(b"\n" + stage.fed.removeprefix(BOM))
    unnamed = [
        replace(event, type="message") if event.type in ("Generic", "add") else event for event in sent.events
    ]
    got = sse_reference.parse(b"\n" + stage.body())
    assert [event for event in got.events if event.type not in OUR_TYPES] == unnamed
    assert got.last_event_id == sent.last_event_id


# Time.


@settings(deadline=None)
@given(stories(), st.sampled_from([0.0, INTERVAL + 2]), st.sampled_from(list(StallAction)))
def test_a_stream_that_can_be_written_is_never_silent_past_its_interval_and_a_ping_is_never_early(
    moments: list[Moment], wait: float, action: StallAction
) -> None:
    stall = Stall(STALLED_AFTER, action=action)
    stage = Stage(replace(POLICY, confirm=Confirm(event="our_confirm", wait=wait), stall=stall))
    tell(stage, [moment for moment in moments if moment is not None])
    stage.clock.advance(3 * INTERVAL)
    written = [stage.client.writes[0].at, *(write.at for write in stage.pieces()), stage.clock()]
    assert max(after - before for before, after in itertools.pairwise(written)) <= INTERVAL
    for before, piece in itertools.pairwise(stage.pieces()):
        if b":our ping" in piece.data:
            assert piece.at - before.at == INTERVAL


def test_no_ping_stands_behind_bytes_that_still_wait_and_one_follows_an_interval_after_they_left() -> None:
    stage = Stage()
    stage.client.takes = False
    stage.feed(b"data: 1\n\n")
    stage.clock.advance(10 * INTERVAL)
    assert stage.relay.pings == 0
    stage.take(1)
    stage.clock.advance(10 * INTERVAL)
    assert stage.relay.pings == 0
    stage.take_all()
    stage.clock.advance(INTERVAL - 0.1)
    assert stage.relay.pings == 0
    stage.clock.advance(0.1)
    assert stage.relay.pings == 1


# Bounds.


@settings(deadline=None)
@given(chunkings(), st.integers(2, 40), st.booleans())
def test_an_event_too_large_ends_the_stream_behind_the_blocks_before_it(
    chunks: list[bytes], limit: int, chunked: bool
) -> None:
    stage = Stage(replace(POLICY, max_event=limit), chunked=chunked)
    for chunk in chunks:
        stage.feed(chunk)
        assert stage.relay._framer.pending <= limit
    stage.clock.advance(0)
    before = first_too_large(stage.fed.removeprefix(BOM), limit)
    assert stage.closed == ({} if before is None else {"event_too_large": 1})
    if before is None:
        return
    assert b"".join(piece.data for piece in stage.pieces() if not is_ours(piece.data)) == before
    assert sse_reference.parse(b"\n" + stage.body()).events[-1].type == "stream_closing"
    assert stage.upstream.closed
    assert stage.client.lost


def test_past_max_buffer_upstream_waits_until_the_client_has_taken_everything() -> None:
    stage = Stage(replace(POLICY, max_buffer=1000))
    stage.client.takes = False
    block = b"data: " + b"x" * 92 + b"\n\n"
    for number in range(100):
        stage.feed(block)
        assert stage.upstream.paused == (number >= 9)
        assert len(stage.client.waiting) <= 1000 + len(b"64\r\n" + block + b"\r\n")
    stage.take(len(stage.client.waiting) - 1)
    assert stage.upstream.paused
    stage.take(1)
    assert stage.relay.events == 100  # the rest came in one read, and is too much at once
    assert stage.upstream.paused
    stage.take_all()
    assert not stage.upstream.paused
    assert stage.client.taken == b"".join(write.data for write in stage.client.writes)
    check_bytes(stage)


def test_upstreams_silence_does_not_count_while_we_have_paused_it() -> None:
    stage = Stage(replace(POLICY, max_buffer=10, stall=Stall(STALLED_AFTER)))
    stage.client.takes = False
    stage.clock.advance(STALLED_AFTER - 1)
    stage.feed(b"data: more than ten bytes\n\n")
    stage.clock.advance(100 * STALLED_AFTER)
    assert stage.relay.stalls == 0
    stage.take_all()
    stage.clock.advance(STALLED_AFTER - 0.1)
    assert stage.relay.stalls == 0
    stage.clock.advance(0.1)
    assert stage.relay.stalls == 1


def test_bytes_of_an_earlier_answer_that_still_wait_hold_pings_back() -> None:
    stage = Stage(waiting=b"the end of another answer")
    stage.clock.advance(2 * INTERVAL)
    assert stage.relay.pings == 0
    stage.take_all()
    stage.clock.advance(INTERVAL)
    assert stage.relay.pings == 1


def test_a_client_that_takes_nothing_is_cut_off_within_a_quarter_of_its_time() -> None:
    stage = Stage(replace(POLICY, write_timeout=8.0))
    stage.client.takes = False
    stage.feed(b"data: 1\n\n")
    stage.clock.advance(7.9)
    assert stage.closed == {}
    stage.clock.advance(2.1)
    assert stage.closed == {"client_stalled": 1}
    assert stage.client.aborted
    check_end(stage)


def test_a_client_that_takes_a_byte_now_and_then_is_slow_and_lives() -> None:
    stage = Stage(replace(POLICY, write_timeout=8.0))
    stage.client.takes = False
    stage.feed(b"data: " + b"x" * 50 + b"\n\n")
    while stage.client.waiting:
        stage.clock.advance(7.9)
        stage.take(1)
    assert stage.closed == {}
    check_bytes(stage)


# Ends.

ENDINGS = {
    "upstream_end": lambda stage: stage.end("upstream ends"),
    "upstream_reset": lambda stage: stage.end("upstream breaks"),
    "client_gone": lambda stage: stage.end("the client leaves"),
    "drain": lambda stage: stage.relay.cut(),
    "stalled": lambda stage: stage.clock.advance(2 * STALLED_AFTER),
    "event_too_large": lambda stage: stage.feed(b"x" * 1000),
}


@pytest.mark.parametrize("takes", [True, False], ids=["the client takes all", "its last bytes wait"])
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(ENDINGS, 2)))
def test_the_first_reason_to_end_is_the_only_one(first: str, second: str, takes: bool) -> None:
    stall = Stall(STALLED_AFTER, close_after=STALLED_AFTER)
    stage = Stage(replace(POLICY, max_event=999, stall=stall))
    stage.client.takes = takes
    ENDINGS[first](stage)
    assert stage.relay.life.close_reason == first
    ENDINGS[second](stage)
    stage.take_all()
    stage.clock.advance(0)
    assert stage.closed == {first: 1}
    check_end(stage)


def test_bytes_behind_an_unfinished_block_are_dropped_at_the_end_as_every_client_would() -> None:
    stage = Stage(form=None)
    stage.feed(b"data: 1\n\ndata: half")
    stage.end("upstream ends")
    assert stage.body() == b"data: 1\n\n"
    check_end(stage)


def test_the_last_bytes_are_kept_for_a_client_that_takes_them_slowly() -> None:
    stage = Stage(replace(POLICY, write_timeout=8.0))
    stage.client.takes = False
    stage.feed(b"data: 1\n\n")
    relay, stage.upstream.sink = stage.upstream.sink, None
    assert relay is not None
    relay.end()
    while stage.client.waiting:
        stage.clock.advance(7.9)
        stage.take(1)
    stage.clock.advance(0)
    assert stage.client.taken.endswith(b"data: 1\n\n\r\n" + LAST_CHUNK)
    assert stage.closed == {"upstream_end": 1}
    assert not stage.client.aborted
    check_end(stage)


def test_last_bytes_that_nobody_takes_are_dropped_in_time_and_the_reason_stays() -> None:
    stage = Stage(replace(POLICY, write_timeout=8.0))
    stage.client.takes = False
    stage.feed(b"data: 1\n\n")
    relay, stage.upstream.sink = stage.upstream.sink, None
    assert relay is not None
    relay.end()
    stage.clock.advance(7.9)
    assert len(stage.streams) == 1
    stage.clock.advance(2.1)
    assert stage.client.aborted
    assert stage.closed == {"upstream_end": 1}
    check_end(stage)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "client_gone"),
        (ConnectionResetError("reset"), "client_gone"),
        (TimeoutError(110, "Connection timed out"), "client_stalled"),
    ],
)
def test_what_the_kernel_says_of_a_lost_client_tells_one_that_left_from_one_that_vanished(
    error: Exception | None, reason: str
) -> None:
    stage = Stage()
    stage.client.leave(error)
    stage.clock.advance(0)
    assert stage.closed == {reason: 1}
    assert stage.upstream.closed
    check_end(stage)


def test_a_half_close_is_leaving() -> None:
    stage = Stage()
    assert not stage.relay.eof_received()  # asyncio closes the transport then
    assert stage.upstream.closed
    stage.clock.advance(0)
    assert stage.closed == {"client_gone": 1}


def test_a_client_that_left_while_upstream_was_asked_is_opened_and_closed_and_not_confirmed() -> None:
    stage = Stage(gone=True)
    assert stage.closed == {"client_gone": 1}
    assert stage.upstream.closed
    assert stage.client.writes == []
    assert len(stage.streams) == 0
    value = stage.metrics.registry.get_sample_value
    assert value("sse_proxy_streams_opened_total", {"route": "events"}) == 1
    assert value("sse_proxy_confirm_failures_total", {"route": "events"}) == 1
    assert value("sse_proxy_confirms_sent_total", {"route": "events", "form": "event"}) == 0


@pytest.mark.parametrize("form", [ConfirmForm.EVENT, ConfirmForm.COMMENT, None])
def test_a_fault_of_ours_ends_this_stream_between_two_blocks(
    form: ConfirmForm | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(replace(POLICY, unname=frozenset({"Generic"})), form=form)
    stage.feed(b"data: 1\n\ndata: half")

    def broken(*_: object) -> tuple[bytes, bool]:
        raise ZeroDivisionError

    monkeypatch.setattr(StreamRoute, "look", broken)
    stage.feed(b" of it\n\n")
    stage.clock.advance(0)
    assert stage.upstream.closed
    assert b"data: half" not in stage.body()
    check_end(stage)
    assert stage.closed == {"internal": 1}
    assert "ZeroDivisionError" in caplog.text


def test_a_fault_of_ours_when_time_is_up_ends_the_stream_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()

    def broken(*_: object, **__: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(type(stage.route.frames), "ping", broken)
    stage.clock.advance(INTERVAL)
    stage.clock.advance(0)
    check_end(stage)
    assert stage.closed == {"internal": 1}
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(("events", "counted"), [(0, 0), (1, 1), (2, 0)])
def test_an_upstream_that_ends_after_its_first_event_is_counted(events: int, counted: int) -> None:
    stage = Stage()
    stage.feed(b": a comment is no event\n\n" + b"data: 1\n\n" * events)
    stage.end("upstream ends")
    value = stage.metrics.registry.get_sample_value
    assert value("sse_proxy_upstream_eof_after_first_event_total", {"route": "events"}) == counted
