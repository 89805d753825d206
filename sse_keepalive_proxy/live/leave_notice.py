"""What is published on NATS when the last client of upstream's stream has gone (`leave.publish`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from sse_keepalive_proxy.observe.line import now_rfc3339
from sse_keepalive_proxy.stream import claims as claims_
from sse_keepalive_proxy.stream.policy import LeavePublish
from sse_keepalive_proxy.wire import encode

__all__ = ["LeaveNotice", "Publisher"]


class Publisher(Protocol):
    """The bridge of a route."""

    @property
    def can_publish(self) -> bool:
        """Whether there is a connection to NATS."""

    def serves(self, subscriber: str) -> bool:
        """Whether any stream of `subscriber` is open."""

    def publish(self, subject: str, payload: bytes) -> asyncio.Task[str | None]:
        """Publish `payload`. The result is None when the server has it, otherwise why it has not."""


class LeaveNotice:
    """The notice of one stream, or of one group. `subscriber`: whose stream it is."""

    __slots__ = ("_parts", "_publisher", "_subject", "_subscriber")

    def __init__(self, publisher: Publisher, subscriber: str, subject: str, parts: tuple[str, ...]) -> None:
        self._publisher, self._subscriber = publisher, subscriber
        self._subject = subject
        self._parts = parts  # of its JSON, around the places of the time

    @classmethod
    def of(
        cls,
        publisher: Publisher,
        subscriber: str,
        policy: LeavePublish,
        values: Mapping[str, str],
        claims: Mapping[str, Any],
    ) -> LeaveNotice | None:
        """Return the notice for a client with `claims`, or None if it needs one that they have not. `values`:
        the other placeholders, without `now`.
        """
        if claims_.missing(policy.data, claims):
            return None
        parts = encode.json_line(policy.data).split("{now}")
        filled = tuple(claims_.fill(part, values, claims) for part in parts)
        return cls(publisher, subscriber, policy.subject, filled)

    @property
    def can_be_published(self) -> bool:
        """Whether there is a connection to NATS."""
        return self._publisher.can_publish

    @property
    def is_untrue(self) -> bool:
        """Whether the subscriber has another stream."""
        return self._publisher.serves(self._subscriber)

    def publish(self) -> asyncio.Task[str | None]:
        """Publish it. The result is that of `Publisher.publish`."""
        return self._publisher.publish(self._subject, now_rfc3339().join(self._parts).encode())
