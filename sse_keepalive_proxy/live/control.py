"""What a relay calls: its stream, and the clients of a group."""

from __future__ import annotations

from typing import Final, Protocol

from sse_keepalive_proxy.errors import ProxyError
from sse_keepalive_proxy.stream.messages import Command

__all__ = ["ENDED", "Audience", "Control"]


class Audience(Protocol):
    """The clients of a group, in the place of one client."""

    def deliver(self, data: bytes, events: int, alive: bool, now: float, *, upstreams: bool = True) -> None:
        """Deliver bytes in which `events` begin. `alive`: they are a sign of life. `upstreams`: upstream has
        sent them.
        """

    def follow(self) -> None:
        """Note that a part of a block, or its end, was delivered."""


class Control(Protocol):
    """The stream of a relay."""

    def execute(self, commands: tuple[Command, ...]) -> None:
        """Execute commands of the lifecycle."""

    def apply_backpressure(self) -> None:
        """Pause upstream if too many bytes wait for the client. Note the bytes that the stream holds."""

    def has_room(self, size: int) -> bool:
        """Return whether `size` bytes that cannot be paused may be added to those that wait for the client.
        If there is no room, end the stream.
        """

    def fail(self, error: BaseException) -> None:
        """End this stream, and no other, after an unexpected exception."""

    def upstream_ended(self) -> None:
        """Handle the end of upstream's body."""

    def upstream_failed(self, error: ProxyError) -> None:
        """Handle that upstream's body broke off."""

    def not_an_event_stream(self) -> None:
        """Handle that upstream's body does not begin like an event stream."""


class _Ended:
    """Replaces the stream after its end, so that the relay does not keep it in memory."""

    def execute(self, commands: tuple[Command, ...]) -> None:
        pass

    def apply_backpressure(self) -> None:
        pass

    def has_room(self, size: int) -> bool:  # noqa: ARG002 (the name of the protocol)
        return False

    def fail(self, error: BaseException) -> None:
        pass

    def upstream_ended(self) -> None:
        pass

    def upstream_failed(self, error: ProxyError) -> None:
        pass

    def not_an_event_stream(self) -> None:
        pass


ENDED: Final = _Ended()
