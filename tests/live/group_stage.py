"""A group on a manual clock: clients with credentials of their own on one side, upstream on the other.

stage = GroupStage()
a = stage.join("a")
stage.upstream.send(b"data: 1\\n\\n")
assert a.data == ["1"]
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

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
    Share,
    StreamPolicy,
    Terminator,
)
from tests.live.stage import HEAD, INTERVAL, Attempts, ClientSide, UpstreamSide, running
from tests.support import sse_reference
from tests.support.clock import ManualClock
from tests.support.http1 import Dechunker

__all__ = ["ANSWER", "GroupStage", "JoinedClient"]

ANSWER = ResponseHead(200, b"OK", [(b"Content-Type", b"text/event-stream")])
REFUSAL = ResponseHead(401, b"Unauthorized", [])


class _Attempts(Attempts):
    """Attempts that know with which request upstream is asked."""

    bare = b""

    def ask_with(self, bare: bytes) -> None:
        self.bare = bare


@dataclass(eq=False)
class JoinedClient:
    """A client in the group."""

    stream: Stream
    side: ClientSide
    credential: Credential

    @property
    def ended(self) -> CloseReason | None:
        return self.stream.life.close_reason

    @property
    def data(self) -> list[str]:
        """The data of upstream's events that it got."""
        raw = b"".join(write.data for write in self.side.writes).removeprefix(HEAD)
        events = sse_reference.parse(Dechunker().feed(raw)).events
        return [event.data for event in events if event.type == "message"]


class GroupStage:
    """One group, `upstream` being the stream that was accepted last. `reconnects`: whether the group asks
    upstream again.
    """

    fed = b""

    def __init__(self, *, reconnects: bool = True) -> None:
        self.clock = ManualClock()
        self.share = Share("user.id")
        again = Reconnect(when=ReconnectWhen.ALWAYS, delay=0.25, give_up_after=600.0)
        policy = StreamPolicy(
            confirm=Confirm(),
            keepalive=Keepalive(interval=INTERVAL),
            stall=None,
            reconnect=again if reconnects else None,
            share=self.share,
        )
        self.streams = Registry(100, None, held=10)
        self.metrics = Metrics(self.streams, self.clock)
        with running(self.clock):
            self.routes = StreamRoutes(
                "events", policy, self.metrics.route("events"), self.streams, Backlog(1 << 30)
            )
        self.groups = Groups(self.share, b"key")
        self.attempts = _Attempts(policy, b"", always=True)
        self.group = self.new_group(b"user", self.attempts if reconnects else None)
        self.upstream: UpstreamSide

    def new_group(self, key: bytes, attempts: _Attempts | None = None) -> Group:
        """A group that other clients find by `key`."""
        group = Group(
            self.routes.for_group(),
            self.share,
            key=key,
            stream_id=key.decode(),
            target="/events",
            reconnection=cast(Any, attempts),
            log=None,
            over=self.groups.remove,
        )
        self.groups.add(group)
        return group

    def credential(self, name: str) -> Credential:
        """A credential that upstream has just accepted."""
        fingerprint = name.encode()
        return Credential(
            fingerprint, fingerprint, b"", varies=(), selected=b"", expires_at=None, now=self.clock()
        )

    def join(self, name: str) -> JoinedClient:
        """A client whose request upstream has accepted, with the credential of this name."""
        known = self.groups.accepted(name.encode())
        credential = self.credential(name) if known is None else known[1]
        self.groups.accept(self.group, credential)
        with running(self.clock):
            self.upstream = UpstreamSide()
            route = self.routes.for_client(Family.BROWSER, Terminator.AUTO)
            stream = Stream(route, stream_id=name, client="127.0.0.1", target="/events")
            self.streams.add(stream)
            side = ClientSide(cast(Any, self), b"")

            def take_over(protocol: asyncio.Protocol) -> asyncio.Transport:
                side.set_protocol(protocol)
                return side

            assert stream.begin(take_over, chunked=True)
        self.streams.begun(stream)
        place = Membership(self.group, credential, accepted=self.upstream.exchange, asked_at=self.clock())
        stream.commit(HEAD, place)
        return JoinedClient(stream, side, credential)

    def lose(self) -> None:
        """Upstream ends its stream, and is asked again."""
        self.upstream.end()
        self.next_attempt()

    def next_attempt(self) -> None:
        self.clock.advance(5.0)
        assert self.attempts.under_way

    def leave(self, client: JoinedClient) -> None:
        client.side.leave()
        self.clock.advance(0)

    def refuse(self) -> None:
        """Upstream answers the attempt with 401."""
        self.attempts.under_way = False
        failed = NotOpened(CloseReason.UNAUTHORIZED, again=False)
        self.group.not_reopened(failed, (401, "no"), REFUSAL)
        self.clock.advance(0)

    def reopen(self) -> None:
        """Upstream answers the attempt with a stream."""
        self.attempts.under_way = False
        with running(self.clock):
            self.upstream = UpstreamSide()
        self.group.reopened(Answer(self.upstream.exchange, ANSWER))
