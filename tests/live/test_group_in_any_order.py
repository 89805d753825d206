"""A group in any order of joins, leaves, slow readers, returns, losses and refusals, beside a plain model:
each client gets the blocks of upstream from its arrival on, in order and once, and ends for one reason.
"""

from __future__ import annotations

import asyncio
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
    Reconnect,
    ReconnectWhen,
    Replay,
    ReplayIds,
    Share,
    StreamPolicy,
    Terminator,
)
from sse_keepalive_proxy.stream.replay_log import ReplayLog
from tests.live.stage import HEAD, INTERVAL, Attempts, ClientSide, UpstreamSide, running
from tests.support import sse_reference
from tests.support.clock import ManualClock
from tests.support.http1 import Dechunker

LINGER, HOLD, TRUST, MOST, LOGGED = 5.0, 60.0, 30.0, 4, 3
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
    def lives(self) -> bool:
        return self.stream.life.close_reason is None

    def got(self) -> sse_reference.Parsed:
        raw = b"".join(write.data for write in self.side.writes).removeprefix(HEAD)
        return sse_reference.parse(Dechunker().feed(raw))


class AskedWith(Attempts):
    """Attempts that know with which request upstream is asked: one of a client that is there, if any is."""

    bare = b""
    clients: list[Client]

    def ask_with(self, bare: bytes) -> None:
        self.bare = bare

    def start(self, listener: Stream) -> None:
        super().start(listener)
        theirs = {client.credential.bare for client in self.clients if client.lives}
        assert self.bare in theirs or not theirs


class Sharing(RuleBasedStateMachine):
    """One user, whose tokens are `a`, `b` and `c`. `said`: the numbers of upstream's whole blocks."""

    @initialize(reconnects=st.booleans(), hold=st.sampled_from([None, HOLD]))
    def begin(self, reconnects: bool, hold: float | None) -> None:
        self.clock = ManualClock()
        self.reconnects = reconnects
        again = Reconnect(when=ReconnectWhen.ALWAYS, delay=0.25, give_up_after=1e6) if reconnects else None
        self.share = Share(
            "user.id", TRUST, MOST, LINGER, Replay(events=LOGGED, bytes=1 << 16, ids=ReplayIds.ADD)
        )
        policy = StreamPolicy(
            confirm=Confirm(),
            keepalive=Keepalive(interval=INTERVAL),
            stall=None,
            reconnect=again,
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
        self.number = self.asked = 0

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
        self.rest = b""
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

    def open_upstream(self) -> UpstreamSide:
        with running(self.clock):
            self.upstream = UpstreamSide()
        self.rest = b""
        return self.upstream

    @rule(
        name=st.sampled_from("abc"),
        family=st.sampled_from([Family.BROWSER, Family.BROWSER, Family.HTTP]),
        last=st.one_of(st.none(), st.integers(0, 12)),
        asks=st.booleans(),
    )
    def join(self, name: str, family: Family, last: int | None, asks: bool) -> None:
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
        in_part = group.flow.in_part
        if not asks and known is not None:
            credential, accepted = known[1], None
        else:
            if known is not None:
                credential = known[1]
                credential.accepted(HEAD_OF_ANSWER, (), b"", self.clock())
            else:
                credential = Credential(
                    fingerprint,
                    fingerprint,
                    HEAD_OF_ANSWER,
                    varies=(),
                    selected=b"",
                    expires_at=None,
                    now=self.clock(),
                )
            self.groups.accept(group, credential)
            before = getattr(self, "upstream", None), self.rest
            accepted = self.open_upstream().exchange
            if in_part:
                self.upstream, self.rest = cast(UpstreamSide, before[0]), before[1]
        last_id = b"" if last is None else b"skp-00000000-%d" % last
        client = self.client(credential, family, arrives=in_part)
        if last is not None:
            self.returns(client, last)
        client.stream.commit(
            HEAD, Membership(group, credential, accepted=accepted, asked_at=self.clock(), last_id=last_id)
        )
        assert accepted is None or in_part or not self.upstream.is_closing()

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

    @property
    def speaks(self) -> bool:
        return self.group is not None and self.group.life.close_reason is None and self.upstream.speaks

    @precondition(lambda self: self.group is not None and self.speaks)
    @rule(blocks=st.integers(1, 3), size=st.sampled_from([1, 1, 40]), cut=st.booleans())
    def say(self, blocks: int, size: int, cut: bool) -> None:
        """Upstream ends its unfinished block, says further ones, and perhaps begins another."""
        begun, self.rest = self.rest, b""
        texts = [f"{self.number + n} {'x' * size}" for n in range(blocks)]
        self.number += blocks
        whole = b"".join(b"data: %b\n\n" % text.encode() for text in texts)
        if begun:
            texts.insert(0, begun.decode().removeprefix("data: ") + "!")
            whole = b"!\n\n" + whole
        if cut:
            self.rest = b"data: %d part" % self.number
            self.number += 1
        for n, text in enumerate(texts):
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
        self.upstream.send(whole + self.rest)
        for client in self.clients:  # one that was cut in the middle has what came before
            if not client.lives:
                client.expected = [event.data for event in client.got().events if event.type == "message"]

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
        was, in_part, held = self.live, self.group.flow.in_part, self.group._is_held
        if ends and self.rest and not (self.reconnects or in_part):
            for client in was:
                client.expected.append("")  # the stream ends with its last block, whole or not
        self.upstream.end() if ends else self.upstream.breaks()
        for client in was:
            stays = self.reconnects and not in_part and not held
            assert client.lives == stays
            if client.expected[-1:] == [""]:
                client.expected.pop()
        self.clock.advance(0)

    @precondition(
        lambda self: self.group is not None and self.attempts is not None and self.attempts.under_way
    )
    @rule(how=st.sampled_from(["opened", "opened", "failed", "refused"]))
    def answer(self, how: str) -> None:
        """Upstream answers an attempt to open it again."""
        assert self.group is not None
        assert self.attempts is not None
        asked = self.attempts.bare
        self.attempts.under_way = False
        if how == "opened":
            self.group.reopened(Answer(self.open_upstream().exchange, ANSWER))
            return
        was = self.live
        reason = CloseReason.UNAUTHORIZED if how == "refused" else CloseReason.UPSTREAM_STATUS
        failed = NotOpened(reason, again=how == "failed", at_least=0.0)
        self.group.not_reopened(failed, (401, "no"), ResponseHead(401, b"", []))
        for client in was:
            assert client.lives == (how == "failed" or client.credential.bare != asked)
        self.clock.advance(0)

    @rule(seconds=st.sampled_from([0.25, 1.5, LINGER, INTERVAL + 1, TRUST, HOLD]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # What holds.

    @invariant()
    def each_client_has_its_own_suffix(self) -> None:
        for client in getattr(self, "clients", []):
            assert client.stream.life.close_reason is not CloseReason.INTERNAL
            got = client.got()
            whole = [event.data for event in got.events if event.type == "message"]
            assert whole == client.expected
            gaps = [event.data for event in got.events if event.type == "stream_gap"]
            gaps += [text for text in got.comments if text.startswith("stream_gap")]
            assert len(gaps) == (client.gap is not None and not client.arrives)
            assert all(cast(str, client.gap) in gap for gap in gaps)

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
        self.clock.advance(LINGER + HOLD + 1)
        self.clock.advance(1)
        closed = {client.stream.life.close_reason for client in self.clients}
        assert None not in closed
        (family,) = (one for one in self.metrics.registry.collect() if one.name == "sse_proxy_streams_closed")
        assert sum(one.value for one in family.samples if one.name.endswith("_total")) == len(self.clients)
        assert (len(self.streams), len(self.streams.groups), len(self.streams.held)) == (0, 0, 0)
        assert (self.groups._groups, self.groups._accepted) == ({}, {})
        assert self.streams.logs.size == 0
        assert not any(self.routes.timers._sleepers.values())


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
