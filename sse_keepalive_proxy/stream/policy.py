"""What a route promises its streams: frozen values, one per concern.

Built once from the configuration and shared by every stream of a route. They never change: a running stream
keeps its policy (behaviour.md#running-streams-keep-their-policy). A concern that is off is None.
Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = [
    "Confirm",
    "ConfirmForm",
    "EarlyCommit",
    "Identity",
    "Keepalive",
    "KeepaliveForm",
    "Reconnect",
    "ReconnectWhen",
    "SignOfLife",
    "Stall",
    "StallAction",
    "StreamPolicy",
    "Terminator",
    "Verify",
]


class ConfirmForm(StrEnum):
    """What a client gets at once. `auto` is decided for each request."""

    AUTO = "auto"
    EVENT = "event"
    COMMENT = "comment"


class KeepaliveForm(StrEnum):
    """A ping is a comment, invisible to every EventSource, or an event that scripts can hear."""

    COMMENT = "comment"
    EVENT = "event"


class Terminator(StrEnum):
    """How a ping comment ends. `auto`: a blank line until upstream has sent an id."""

    AUTO = "auto"
    BLANK = "blank"
    NEWLINE = "newline"


class SignOfLife(StrEnum):
    """The least that upstream must send to count as alive."""

    BYTES = "bytes"
    COMMENTS = "comments"
    EVENTS = "events"


class StallAction(StrEnum):
    """What happens when upstream stalls, besides being counted."""

    OBSERVE = "observe"
    NOTIFY = "notify"
    RECONNECT = "reconnect"


class ReconnectWhen(StrEnum):
    """Which streams may be opened again behind their client; never one whose request has a body.
    `resumable`: those of an EventSource that know the id of their last event. `always`: every GET.
    """

    RESUMABLE = "resumable"
    ALWAYS = "always"


class Verify(StrEnum):
    """What makes a token's claims believed: its signature, or that upstream has accepted the request."""

    JWT = "jwt"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Confirm:
    """The first bytes of a stream, from us, so that no client waits on silence."""

    form: ConfirmForm = ConfirmForm.AUTO
    event: str = "connection_confirmed"
    data: Mapping[str, Any] = field(
        default_factory=lambda: {
            "type": "connection_confirmed",
            "stream_id": "{stream_id}",
            "timestamp": "{now}",
        }
    )
    padding: int = 0
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Keepalive:
    """What is written when downstream has been silent for `interval`."""

    interval: float = 15.0
    form: KeepaliveForm = KeepaliveForm.COMMENT
    text: str = "ping"
    terminator: Terminator = Terminator.AUTO
    event: str = "ping"
    data: Mapping[str, Any] = field(default_factory=lambda: {"type": "ping", "timestamp": "{now}"})
    report_idle: bool = False


@dataclass(frozen=True, slots=True)
class Stall:
    """When upstream counts as stalled, and what happens then (behaviour.md#pings-never-pretend)."""

    after: float = 60.0
    sign_of_life: SignOfLife = SignOfLife.EVENTS
    ignore_events: frozenset[str] = frozenset()
    ignore_types: frozenset[str] = frozenset()
    action: StallAction = StallAction.OBSERVE
    close_after: float | None = None


@dataclass(frozen=True, slots=True)
class EarlyCommit:
    """A 200 for a client whose upstream has not answered `after` so many seconds."""

    after: float
    methods: frozenset[str] = frozenset({"GET"})


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How an upstream that was lost is opened again.

    `first_within`: how long the first opening is tried, before the client has a status; None: once.
    `delay` is the first ceiling of the random wait before an attempt; it doubles up to `max_delay`.
    """

    when: ReconnectWhen = ReconnectWhen.RESUMABLE
    first_within: float | None = 8.0
    delay: float = 0.25
    max_delay: float = 15.0
    give_up_after: float = 300.0
    on_status: frozenset[int] = frozenset({429, 500, 502, 503, 504})
    announce: bool = True


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is, by the claims of the JSON Web Token in `source` (`query:NAME` or `header:name`).

    `public_key_file` holds a PEM public key; it and `algorithms` are for `Verify.JWT` only.
    """

    source: str = "query:access_token"
    verify: Verify = Verify.JWT
    public_key_file: str | None = None
    algorithms: tuple[str, ...] = ("EdDSA",)
    audience: str | None = None
    issuer: str | None = None
    close_at_expiry: bool = False


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """Everything a route's `stream` section says, with the defaults of the contract."""

    credential: tuple[str, ...] = ("query:access_token", "header:authorization", "header:cookie")
    identity: Identity | None = None
    refuse_head: bool = False
    confirm: Confirm | None = field(default_factory=Confirm)
    keepalive: Keepalive | None = field(default_factory=Keepalive)
    stall: Stall | None = field(default_factory=Stall)
    early_commit: EarlyCommit | None = None
    open_timeout: float = 300.0
    reconnect: Reconnect | None = field(default_factory=Reconnect)
    unname: frozenset[str] = frozenset()
    max_age: float | None = None
    max_event: int = 1 << 20
    max_buffer: int = 1 << 20
    write_timeout: float = 30.0
