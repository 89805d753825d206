"""A group in any order of joins, leaves, slow readers, returns, losses, stalls and refusals, beside a plain
model: each client gets the blocks of upstream from its arrival on, in order and once, and ends for one
reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sse_keepalive_proxy.gateway.sharing import Groups
from sse_keepalive_proxy.http.attempts import Answer
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.live.backlog import Backlog
from sse_keepalive_proxy.live.group import Group
from sse_keepalive_proxy.live.membership import Credential, Membership
from sse_keepalive_proxy.live.route import StreamRoutes
from sse_keepalive_proxy.live.stream import Stream
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.stream.messages import CloseReason, NotOpened
from sse_keepalive_proxy.stream.policy import (
    Confirm,
    Family,
    Keepalive,
    OnRefusal,
    Reconnect,
    ReconnectWhen,
    Replay,
    ReplayIds,
    Share,
    SignOfLife,
    Stall,
    StallAction,
    StreamPolicy,
    Terminator,
)
from sse_keepalive_proxy.stream.replay_log import ReplayLog
from tests.live.stage import HEAD, INTERVAL, STALLED_AFTER, Attempts, ClientSide, UpstreamSide, running
from tests.support import sse_reference
from tests.support.clock import ManualClock
from tests.support.http1 import Dechunker

LINGER, HOLD, TRUST, MOST, LOGGED, LIVES = 5.0, 60.0, 30.0, 4, 3, 47.1
ANSWER = ResponseHead(200, b"OK", [(b"Content-Type", b"text/event-stream")])
HEAD_OF_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@dataclass(eq=False)
class Client:
    """A client, and what it must have got. `arrives`: it came inside a block that is forwarded in parts."""

    stream: Stream
    side: ClientSide
    credential: Credential
    family: Family
    arrives: bool
    expected: list[str] = field(default_factory=list)
    gap: str | None = None

    @property
    def ended(self) -> CloseReason | None:
        return self.stream.life.close_reason

    @property
    def lives(self) -> bool:
        return self.ended is None

    def got(self) -> sse_reference.Parsed:
        raw = b"".join(write.data for write in self.side.writes).removeprefix(HEAD)
        return sse_reference.parse(Dechunker().feed(raw))


class AskedWith(Attempts):
    """Attempts that know with which request upstream is asked: one of a client that is there and not refused,
    if any is.
    """

    bare = b""
    clients: list[Client]

    def ask_with(self, bare: bytes) -> None:
        self.bare = bare

    def start(self, listener: Stream) -> None:
        super().start(listener)
        known = [client.credential for client in self.clients if client.lives]
        theirs = {credential.bare for credential in known if not credential.refused}
        assert self.bare in theirs or not theirs

    def cancel(self) -> bool:
        self.came = b""
        return super().cancel()


class Sharing(RuleBasedStateMachine):
    """One user, whose tokens are `a`, `b` and `c`.

    `upstream` is the stream that is read. It was asked for at `read_at`, `rest` is its unfinished block, and
    `unread` what it has sent and nothing has read, with `b""` for its end.
    """

    @initialize(
        reconnects=st.booleans(), hold=st.sampled_from([None, HOLD]), on_refusal=st.sampled_from(OnRefusal)
    )
    def begin(self, reconnects: bool, hold: float | None, on_refusal: OnRefusal) -> None:
        self.clock = ManualClock()
        self.reconnects, self.keeps = reconnects, on_refusal is OnRefusal.KEEP
        again = Reconnect(when=ReconnectWhen.ALWAYS, delay=0.25, give_up_after=1e6, on_refusal=on_refusal)
        self.share = Share(
            "user.id", TRUST, MOST, LINGER, Replay(events=LOGGED, bytes=1 << 16, ids=ReplayIds.ADD)
        )
        policy = StreamPolicy(
            confirm=Confirm(),
            keepalive=Keepalive(interval=INTERVAL),
            stall=Stall(STALLED_AFTER, SignOfLife.EVENTS, action=StallAction.RECONNECT)
            if reconnects
            else None,
            reconnect=again if reconnects else None,
            share=self.share,
            hold=hold,
            max_buffer=100,
            write_timeout=1e6,
        )
        self.streams = Registry(100, None, held=10)
        self.streams.logs.limit = 1 << 20
        self.metrics = Metrics(self.streams, self.clock)
        self.backlog = Backlog(1 << 30)
        with running(self.clock):
            self.routes = StreamRoutes(
                "events", policy, self.metrics.route("events"), self.streams, self.backlog
            )
        self.groups = Groups(self.share, b"key")
        self.clients: list[Client] = []
        self.group: Group | None = None
        self.number = 0

    # What happens.

    @property
    def live(self) -> list[Client]:
        return [client for client in self.clients if client.lives]

    @property
    def fed(self) -> bytes:
        return b""

    def new_group(self) -> Group:
        self.attempts = AskedWith(self.routes.policy, b"", always=True) if self.reconnects else None
        if self.attempts is not None:
            self.attempts.clients = self.clients
        self.numbers, self.logged, self.before = 0, cast(list[tuple[int, str]], []), None
        self.rest, self.unread = b"", cast(list[bytes], [])
        self.read_at = 0.0
        self.asking: list[Callable[[], None]] = []
        self.leave_at: dict[bytes, float] = {}
        self.has_ended = False  # upstream's stream, while another client asks for one
        group = Group(
            self.routes.for_group(),
            self.share,
            key=b"user",
            stream_id="group",
            target="/events",
            reconnection=cast(Any, self.attempts),
            log=ReplayLog(Replay(events=LOGGED, ids=ReplayIds.ADD), "00000000"),
            over=self.groups.remove,
        )
        self.groups.add(group)
        return group

    @property
    def is_read(self) -> bool:
        return hasattr(self, "upstream") and not self.upstream.is_closing()

    @property
    def asks_again(self) -> bool:
        return self.group is not None and self.attempts is not None and self.attempts.under_way

    @rule(
        name=st.sampled_from("abc"),
        family=st.sampled_from([Family.BROWSER, Family.BROWSER, Family.HTTP]),
        last=st.one_of(st.none(), st.integers(0, 12)),
        asks=st.booleans(),
        asked=st.sampled_from(["now", "now", "before the attempt", "before the stream"]),
        blocks=st.integers(0, 1),
        cut=st.booleans(),
    )
    def join(
        self, name: str, family: Family, last: int | None, asks: bool, asked: str, blocks: int, cut: bool
    ) -> None:
        """A client comes. If upstream is asked for it, at a time `asked`, its stream brings `blocks`."""
        group = self.groups.find(b"user")
        fingerprint = name.encode()
        if group is not None and group.is_full:
            return
        known = self.groups.accepted(fingerprint)
        if known is None or known[1].refused or self.clock() >= known[1].accepted_at + TRUST:
            asks = True
        if group is None:
            self.group = group = self.new_group()
            asks = True
        arrives, early = group.flow.in_part, b""
        accepted: UpstreamSide | None = None
        asked_at = self.clock()
        if not asks and known is not None:
            credential = known[1]
        else:
            credential = self.accepted(fingerprint)
            self.groups.accept(group, credential)
            self.leave_at.pop(fingerprint, None)
            early = self.bring(blocks, cut=cut)
            with running(self.clock):
                accepted = UpstreamSide(early)
            asked_at = self.asked_at(asked)
        last_id = b"" if last is None else b"skp-00000000-%d" % last
        client = self.client(credential, family, arrives=arrives)
        if last is not None:
            self.returns(client, last)
        place = Membership(
            group,
            credential,
            accepted=None if accepted is None else accepted.exchange,
            asked_at=asked_at,
            answered=self.asking.pop() if accepted is not None and self.asking else None,
            last_id=last_id,
        )
        if accepted is None or arrives:
            client.stream.commit(HEAD, place)
        else:
            self.take(accepted, asked_at, early, lambda: client.stream.commit(HEAD, place))
        if self.has_ended and not self.asking:
            self.has_ended = False
            assert not self.live

    def accepted(self, fingerprint: bytes) -> Credential:
        """A credential that upstream has accepted just now."""
        known = self.groups.accepted(fingerprint)
        if known is not None:
            known[1].accepted(HEAD_OF_ANSWER, (), b"", self.clock())
            return known[1]
        return Credential(
            fingerprint,
            fingerprint,
            HEAD_OF_ANSWER,
            varies=(),
            selected=b"",
            expires_at=None,
            now=self.clock(),
        )

    def asked_at(self, asked: str) -> float:
        if asked == "before the attempt" and self.attempts is not None and self.attempts.under_way:
            assert self.attempts.sent_at is not None
            return self.attempts.sent_at - 0.1
        return self.read_at - 0.1 if asked == "before the stream" and self.is_read else self.clock()

    def take(self, accepted: UpstreamSide, asked_at: float, early: bytes, act: Callable[[], None]) -> None:
        """A stream of upstream was accepted for a client: which one is read, and what is delivered?"""
        goes_on = came = b""
        if self.is_read and asked_at < self.read_at and b"" not in self.unread:
            self.expect_blocks(early)
            self.expect_unread()
            act()
            assert not self.is_read or self.upstream is not accepted
            assert accepted.closed or self.routes.policy.hold
            self.forget_the_cut()
            return
        if self.attempts is not None and self.attempts.under_way:
            assert self.attempts.sent_at is not None
            goes_on = self.attempts.sent_at >= asked_at
            came = b"" if goes_on else self.attempts.came
        self.expect_unread()
        self.expect_blocks(came)
        self.rest = self.expect_blocks(early)
        old, self.upstream = getattr(self, "upstream", accepted), accepted
        self.read_at, self.has_ended = asked_at, False
        act()
        assert old is accepted or old.is_closing() or self.routes.policy.hold
        assert not accepted.is_closing()
        assert self.attempts is None or self.attempts.under_way == bool(goes_on)
        self.forget_the_cut()

    def client(self, credential: Credential, family: Family, *, arrives: bool) -> Client:
        route = self.routes.for_client(family, Terminator.AUTO)
        with running(self.clock):
            stream = Stream(route, stream_id="1", client="127.0.0.1", target="/events")
            self.streams.add(stream)
            side = ClientSide(cast(Any, self), b"")

            def take_over(protocol: asyncio.Protocol) -> asyncio.Transport:
                side.set_protocol(protocol)
                return side

            assert stream.begin(take_over, chunked=True)
        self.streams.begun(stream)
        client = Client(stream, side, credential, family, arrives)
        self.clients.append(client)
        return client

    def returns(self, client: Client, last: int) -> None:
        """The client has the event with this number of the log: what is it sent?"""
        if client.arrives or self.group is None:
            self.logged, self.before = [], None  # the block in parts empties the log before it begins
        known = [number for number, _ in self.logged]
        if last in known:
            client.expected += [data for number, data in self.logged if number > last]
        elif last == self.before:
            client.expected += [data for _, data in self.logged]
        else:
            client.gap = "too_old" if 0 < last <= self.numbers else "unknown"

    # What upstream says.

    def bring(self, blocks: int, size: int = 1, *, cut: bool) -> bytes:
        """So many new blocks of upstream, and perhaps the beginning of another one."""
        texts = [f"{self.number + n} {'x' * size}" for n in range(blocks)]
        self.number += blocks
        data = b"".join(b"data: %b\n\n" % text.encode() for text in texts)
        if cut:
            data += b"data: %d part" % self.number
            self.number += 1
        return data

    def expect_blocks(self, data: bytes) -> bytes:
        """All clients get the whole blocks in `data`. Return the rest."""
        *blocks, rest = data.split(b"\n\n")
        for n, block in enumerate(blocks):
            text = block.decode().removeprefix("data: ")
            in_part = n == 0 and self.group is not None and self.group.flow.in_part
            for client in self.live:
                if not (in_part and client.arrives):
                    client.expected.append(text)
                client.arrives = False
            if in_part:
                self.logged, self.before = [], None
            else:
                self.numbers += 1
                self.logged.append((self.numbers, text))
                if len(self.logged) > LOGGED:
                    self.before = self.logged.pop(0)[0]
        return rest

    def expect_unread(self) -> None:
        """All clients get what the stream that is read has sent and nothing has read."""
        self.rest = self.expect_blocks(self.rest + b"".join(self.unread))
        self.unread.clear()

    def forget_the_cut(self) -> None:
        for client in self.clients:  # one that was cut in the middle has what came before
            if not client.lives:
                client.expected = [event.data for event in client.got().events if event.type == "message"]

    @property
    def speaks(self) -> bool:
        alive = self.group is not None and self.group.life.close_reason is None
        return alive and self.upstream.speaks and b"" not in self.unread

    @precondition(lambda self: self.group is not None and self.speaks)
    @rule(blocks=st.integers(1, 3), size=st.sampled_from([1, 1, 40]), cut=st.booleans())
    def say(self, blocks: int, size: int, cut: bool) -> None:
        """Upstream ends its unfinished block, says further ones, and perhaps begins another."""
        ends = b"!\n\n" if (self.rest + b"".join(self.unread)).rpartition(b"\n\n")[2] else b""
        data = ends + self.bring(blocks, size, cut=cut)
        self.unread.append(data)
        self.expect_unread()
        self.upstream.send(data)
        self.forget_the_cut()

    @precondition(lambda self: self.group is not None and self.speaks and not self.group.flow.in_part)
    @rule(blocks=st.integers(0, 2), cut=st.booleans(), ends=st.booleans())
    def write(self, blocks: int, cut: bool, ends: bool) -> None:
        """Upstream says something, and perhaps ends, and nothing reads it yet."""
        begun = (self.rest + b"".join(self.unread)).rpartition(b"\n\n")[2]
        data = (b"!\n\n" if begun else b"") + self.bring(blocks, cut=cut)
        for each in ([data] if data else []) + ([b""] if ends else []):
            self.unread.append(each)
            self.upstream.write(each)

    @precondition(lambda self: self.group is not None and self.is_read and self.unread)
    @rule()
    def arrive(self) -> None:
        """What upstream has said is read."""
        if b"" in self.unread:
            self.lose(ends=True)
            return
        self.expect_unread()
        self.upstream.read_now()
        self.forget_the_cut()

    @precondition(lambda self: self.group is not None and bool(self.live))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.live)).side.leave()
        self.clock.advance(0)

    @precondition(lambda self: self.group is not None and bool(self.live))
    @rule(data=st.data(), takes=st.booleans())
    def read(self, data: st.DataObject, takes: bool) -> None:
        """A client takes nothing from now on, or everything."""
        side = data.draw(st.sampled_from(self.live)).side
        side.takes = takes
        if takes:
            side.take(len(side.waiting))

    @precondition(lambda self: self.group is not None and self.speaks)
    @rule(ends=st.booleans())
    def lose(self, ends: bool) -> None:
        assert self.group is not None
        self.expect_unread()
        was, in_part, held = self.live, self.group.flow.in_part, self.group._is_held
        waits = ends and bool(self.asking) and not self.reconnects
        stays = (self.reconnects and not in_part and not held) or waits
        cuts = {client for client in was if len(client.side.waiting) + 200 > 100 and not client.side.takes}
        self.upstream.read_now()
        if not self.upstream.is_closing():
            self.upstream.end() if ends else self.upstream.breaks()
        for client in was:
            assert client.lives == stays or client in cuts
        self.has_ended = waits and self.group.life.close_reason is None
        self.forget_the_cut()
        self.clock.advance(0)

    @precondition(lambda self: self.group is not None and self.group.life.close_reason is None)
    @rule()
    def ask(self) -> None:
        """A client asks upstream for its own stream."""
        if self.group is not None and len(self.asking) < 2:
            self.asking.append(self.group.ask())

    @precondition(lambda self: self.group is not None and bool(self.asking))
    @rule()
    def not_accepted(self) -> None:
        """Upstream refuses a client that has asked."""
        self.asking.pop()()
        if self.has_ended and not self.asking:
            self.has_ended = False
            assert not self.live
        self.clock.advance(0)

    @precondition(lambda self: self.asks_again)
    @rule(blocks=st.integers(1, 2), cut=st.booleans())
    def attempt_brings(self, blocks: int, cut: bool) -> None:
        """Upstream answers an attempt to open it again, with a stream that brings something at once, and this
        is not handled yet.
        """
        if self.attempts is not None and not self.attempts.came:
            self.attempts.came = self.bring(blocks, cut=cut)

    @precondition(lambda self: self.asks_again)
    @rule(how=st.sampled_from(["opened", "opened", "failed", "refused"]))
    def answer(self, how: str) -> None:
        """Upstream answers an attempt to open it again."""
        assert self.group is not None
        assert self.attempts is not None
        asked, came = self.group._asked_with, self.attempts.came
        concerns = not self.group._is_overtaken and not self.is_read
        if how == "opened" or came:
            self.attempts.answered()
            self.attempts.came = b""
            with running(self.clock):
                side = UpstreamSide(came)
            if self.is_read:
                self.expect_unread()
            else:
                self.unread.clear()
            self.rest = self.expect_blocks(came)
            assert self.attempts.sent_at is not None
            self.upstream, self.read_at = side, self.attempts.sent_at
            self.group.reopened(Answer(side.exchange, ANSWER))
            assert not side.is_closing()
            self.forget_the_cut()
            return
        was = self.live
        reason = CloseReason.UNAUTHORIZED if how == "refused" else CloseReason.UPSTREAM_STATUS
        failed = NotOpened(reason, again=how == "failed", at_least=0.0)
        refused = how == "refused" and concerns and asked is not None
        if refused and asked is not None:
            asked.expires_at = time.time() + LIVES
            self.leave_at[asked.bare] = self.clock() + LIVES
        self.attempts.answered()
        self.group.not_reopened(failed, (401, "no"), ResponseHead(401, b"", []))
        for client in was:
            assert client.lives == (self.keeps or not refused or client.credential is not asked)
        self.clock.advance(0)

    @rule(seconds=st.sampled_from([0.25, 1.5, LINGER, INTERVAL + 1, TRUST, HOLD]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for client in self.live:
            assert self.clock() < self.leave_at.get(client.credential.bare, 1e9) + 1.1
        self.forget_the_cut()

    # What holds.

    @invariant()
    def each_client_has_its_own_suffix(self) -> None:
        for client in getattr(self, "clients", []):
            assert client.ended is not CloseReason.INTERNAL
            got = client.got()
            whole = [event.data for event in got.events if event.type == "message"]
            assert whole == client.expected
            gaps = [event.data for event in got.events if event.type == "stream_gap"]
            gaps += [text for text in got.comments if text.startswith("stream_gap")]
            assert len(gaps) == (client.gap is not None and not client.arrives)
            assert all(cast(str, client.gap) in gap for gap in gaps)

    @invariant()
    def upstream_is_read_asked_for_or_awaited(self) -> None:
        if getattr(self, "group", None) is None or not self.live:
            return
        assert self.group is not None
        lost = self.group.life.state == "reconnecting"
        awaited = self.group._has_ended and (self.asking or self.asks_again)
        assert self.is_read or lost or awaited

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        if getattr(self, "group", None) is not None:
            assert len(self.streams.groups) <= 1
            assert len(self.live) == sum(group.clients for group in self.streams.groups) <= MOST
            assert len(self.groups._accepted) <= 3
            counts = [
                each.members for group in self.streams.groups for each in cast(Group, group).credentials
            ]
            assert sum(counts) == len(self.live)

    def teardown(self) -> None:
        if not hasattr(self, "clients"):
            return
        for client in self.clients:
            client.side.leave()
        self.clock.advance(0)
        for answered in getattr(self, "asking", []):
            answered()
        self.clock.advance(LINGER + HOLD + 1)
        self.clock.advance(1)
        closed = {client.ended for client in self.clients}
        assert None not in closed
        (family,) = (one for one in self.metrics.registry.collect() if one.name == "sse_proxy_streams_closed")
        assert sum(one.value for one in family.samples if one.name.endswith("_total")) == len(self.clients)
        assert (len(self.streams), len(self.streams.groups), len(self.streams.held)) == (0, 0, 0)
        assert (self.groups._groups, self.groups._accepted) == ({}, {})
        assert self.streams.logs.size == 0
        assert not any(self.routes.timers._sleepers.values())


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
