"""A group on a manual clock: clients with credentials of their own on one side, upstream on the other.

stage = GroupStage()
a = stage.join("a")
stage.upstream.send(b"data: 1\\n\\n")
assert a.data == ["1"]
"""

from __future__ import annotations

import asyncio
import time
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
    OnRefusal,
    Reconnect,
    ReconnectWhen,
    Share,
    SignOfLife,
    Stall,
    StallAction,
    StreamPolicy,
    Terminator,
)
from tests.live.stage import HEAD, INTERVAL, STALLED_AFTER, Attempts, ClientSide, UpstreamSide, running
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
        return [event.data for event in self.events if event.type == "message"]

    @property
    def events(self) -> list[sse_reference.Event]:
        """All events that it got."""
        raw = b"".join(write.data for write in self.side.writes).removeprefix(HEAD)
        return sse_reference.parse(Dechunker().feed(raw)).events

    @property
    def gaps(self) -> int:
        """How often it was told that upstream was away."""
        return sum(event.type == "stream_recovered" for event in self.events)


class GroupStage:
    """One group, `upstream` being the stream that was accepted last. `reconnects`: whether the group asks
    upstream again, also in the place of a stream that is stalled for `STALLED_AFTER`.
    """

    fed = b""

    def __init__(self, *, reconnects: bool = True, on_refusal: OnRefusal = OnRefusal.END) -> None:
        self.clock = ManualClock()
        self.share = Share("user.id")
        again = Reconnect(when=ReconnectWhen.ALWAYS, delay=0.25, give_up_after=600.0, on_refusal=on_refusal)
        policy = StreamPolicy(
            confirm=Confirm(),
            keepalive=Keepalive(interval=INTERVAL),
            stall=Stall(STALLED_AFTER, SignOfLife.EVENTS, action=StallAction.RECONNECT),
            reconnect=again if reconnects else None,
            share=self.share,
            max_event=1000,
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

    def credential(self, name: str, lives: float | None = None) -> Credential:
        """A credential that upstream has accepted just now. It lives so many seconds from its first use."""
        fingerprint, known = name.encode(), self.groups.accepted(name.encode())
        if known is not None:
            known[1].accepted(b"", (), b"", self.clock())
            return known[1]
        expires_at = None if lives is None else time.time() + lives
        return Credential(
            fingerprint, fingerprint, b"", varies=(), selected=b"", expires_at=expires_at, now=self.clock()
        )

    def join(
        self,
        name: str,
        *,
        asked_at: float | None = None,
        early: bytes = b"",
        lives: float | None = None,
        resumes: bool = False,
    ) -> JoinedClient:
        """A client whose request upstream has accepted, with the credential of this name (see there).
        `asked_at`: when it was sent. `early`: what came with the answer. `resumes`: it had the group's last
        id, because upstream's stream was lost then.
        """
        credential = self.credential(name, lives)
        self.groups.accept(self.group, credential)
        with running(self.clock):
            self.upstream = UpstreamSide(early)
            route = self.routes.for_client(Family.BROWSER, Terminator.AUTO)
            stream = Stream(route, stream_id=name, client="127.0.0.1", target="/events")
            self.streams.add(stream)
            side = ClientSide(cast(Any, self), b"")

            def take_over(protocol: asyncio.Protocol) -> asyncio.Transport:
                side.set_protocol(protocol)
                return side

            assert stream.begin(take_over, chunked=True)
        self.streams.begun(stream)
        asked_at = self.clock() if asked_at is None else asked_at
        place = Membership(
            self.group, credential, accepted=self.upstream.exchange, asked_at=asked_at, resumes=resumes
        )
        stream.commit(HEAD, place)
        return JoinedClient(stream, side, credential)

    def lose(self) -> None:
        """Upstream ends its stream, and is asked again."""
        self.upstream.end()
        self.next_attempt()

    def stall(self) -> None:
        """Upstream gives no sign of life, and is asked for another stream."""
        self.clock.advance(STALLED_AFTER)
        self.next_attempt()

    def next_attempt(self) -> None:
        started = self.attempts.started
        for _ in range(400):
            if self.attempts.started == started:
                self.clock.advance(0.25)
        self.clock.advance(0.001)  # of two at one instant, the attempt counts as the later one
        assert self.attempts.under_way
        self.clock.advance(0.1)  # who asks now has asked later

    def leave(self, client: JoinedClient) -> None:
        client.side.leave()
        self.clock.advance(0)

    def refuse(self) -> None:
        """Upstream answers the attempt with 401."""
        self.attempts.answered()
        failed = NotOpened(CloseReason.UNAUTHORIZED, again=False)
        self.group.not_reopened(failed, (401, "no"), REFUSAL)
        self.clock.advance(0)

    def fail(self) -> None:
        """Upstream answers the attempt with 503."""
        self.attempts.answered()
        failed = NotOpened(CloseReason.UPSTREAM_STATUS, again=True)
        self.group.not_reopened(failed, (503, "no"), REFUSAL)

    def reopen(self, early: bytes = b"") -> None:
        """Upstream answers the attempt with a stream, which brings `early` at once."""
        self.attempts.answered()
        with running(self.clock):
            self.upstream = UpstreamSide(early)
        self.group.reopened(Answer(self.upstream.exchange, ANSWER))
