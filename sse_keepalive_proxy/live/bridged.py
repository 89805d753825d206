"""What a stream and the bridge of its route see of each other. `live.bridge` has the bridge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sse_keepalive_proxy.live.leave_notice import LeaveNotice
from sse_keepalive_proxy.stream.bridging import Message
from sse_keepalive_proxy.stream.policy import LeavePublish
from sse_keepalive_proxy.stream.position import Position
from sse_keepalive_proxy.stream.replay_log import GapReason

__all__ = ["Bridgeable", "Bridged", "StreamBridge"]


class Bridgeable(Protocol):
    """The relay of a stream. `opaque`: its body is no event stream, so nothing can be written into it."""

    bridge: Bridged | None
    opaque: bool

    def fill(self, blocks: bytes, events: int, *, upstreams: bool) -> bool:
        """Write whole blocks with so many `events` between two blocks of upstream. Return whether they were
        written. `upstreams`: they are blocks that upstream has sent.
        """

    def missed(self) -> None:
        """Note that upstream has not delivered a message in time."""

    def fail(self, error: BaseException) -> None:
        """End the stream after an unexpected exception."""


class Bridged(Protocol):
    """The place of a stream at the bridge of its route."""

    def snapshot(self) -> dict[str, Any]:
        """Return its values for pages."""

    @property
    def position(self) -> Position | None:
        """What this one has got of the bridge's stream, None without."""

    def after(self, position: Position, flow: Bridgeable) -> list[tuple[Message, Position]] | GapReason:
        """Return the messages that a client of the group of `flow` with `position` has missed, and that the
        group will not deliver, each with its position then. Return the reason if they are not known.
        """

    def look(self, blocks: bytes) -> bytes:
        """Return whole `blocks` of upstream as the client gets them now, without copies: maybe none."""

    def begin(self) -> None:
        """Write from now on: upstream has accepted the client."""

    def covers(self, gap: float) -> bool:
        """Whether the last `gap` seconds without upstream cost no message."""

    def move(self, flow: Bridgeable) -> None:
        """Serve the group of `flow` from now on, which the stream joins."""

    def finish(self) -> None:
        """Write all that waits: the stream ends, and upstream delivers nothing any more."""

    def close(self) -> None:
        """Leave the bridge: the stream has ended."""


class StreamBridge(Protocol):
    """The bridge of a route."""

    @property
    def fills(self) -> bool:
        """Whether it delivers messages."""

    def expect(self, flow: Bridgeable, claims: Mapping[str, Any]) -> None:
        """Keep the messages for the subscriber that `claims` name until `flow` is served."""

    def serve(self, flow: Bridgeable, claims: Mapping[str, Any]) -> None:
        """Give `flow` a place for the subscriber that `claims` name, unless it has one, and write there."""

    async def reached(self, position: int) -> None:
        """Wait until the messages up to `position` are known, but not for long."""

    def notice(
        self, policy: LeavePublish, claims: Mapping[str, Any], values: Mapping[str, str]
    ) -> LeaveNotice | None:
        """Return what is published when the last client with `claims` has gone, or None if they do not name
        it. `values`: other placeholders.
        """
