"""What the bridge of a route sees of NATS. `bridge.connection` and `bridge.durable` have it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Protocol

__all__ = ["Receive", "Subscriptions"]

Receive = Callable[[bytes, int], asyncio.Event | None]
"""Handles a message, as `bridge.connection` has it."""


class Subscriptions(Protocol):
    """The connection to NATS, or what reads a stream there (see `bridge.durable.Reader`)."""

    connected_since: float | None
    changed_at: float
    behind_since: float | None
    position: int | None
    begun: int
    history: int
    lost: int

    @property
    def refused(self) -> AbstractSet[str]:
        """The subjects on which NATS sends nothing: it does not permit to subscribe to them."""

    def receive(self, subject: str, receive: Receive) -> None:
        """Call `receive` with each message on `subject` and its position, from now on."""

    def ignore(self, subject: str, receive: Receive) -> None:
        """Call `receive` no more."""

    @property
    def server(self) -> str:
        """The server of the connection, or those that are tried: without credentials."""

    @property
    def can_publish(self) -> bool:
        """Whether there is a connection to publish on."""

    def publish(self, subject: str, payload: bytes) -> asyncio.Task[str | None]:
        """Publish `payload`. The result is None when the server has it, otherwise why it has not."""
