"""What a lifecycle is told, and what it answers: events in, commands out.

Values only. What they do is written in `stream.lifecycle`.
Times and durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from sse_keepalive_proxy.stream.states import CloseReason

__all__ = [
    "Abort",
    "Announce",
    "Blocked",
    "ClientGone",
    "Close",
    "CloseReason",
    "Command",
    "Commit",
    "CommitEarly",
    "Confirm",
    "Drop",
    "Event",
    "Fault",
    "LeaveAt",
    "NotOpened",
    "Opened",
    "Paused",
    "Ping",
    "Recovered",
    "Reopen",
    "Resumed",
    "SilenceEnded",
    "Stalled",
    "Unblocked",
    "UpstreamLost",
]


# What happened. Upstream's blocks come through `Lifecycle.received`, on the way of every byte.


@dataclass(frozen=True, slots=True)
class CommitEarly:
    """Upstream has not answered, and the client shall wait no longer for its response to begin."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Upstream answered 2xx with an event stream, for the first time or again. The first time the confirm
    event, where there is one, gives it `confirm_wait` seconds to speak first. `resumed`: it was told the id
    of the last event.
    """

    confirm_wait: float = 0.0
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class NotOpened:
    """Upstream, asked behind a client whose response has begun, gave no event stream. `again`: it may be
    asked once more, `at_least` seconds from now; else the stream ends, for `reason`.
    """

    reason: CloseReason
    again: bool
    at_least: float = 0.0


@dataclass(frozen=True, slots=True)
class UpstreamLost:
    """Upstream's body is over, or broke off: `reason`. It wants to be left alone for `at_least` seconds."""

    reason: CloseReason
    at_least: float = 0.0


@dataclass(frozen=True, slots=True)
class ClientGone:
    """The client's connection is lost, or half-closed."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """The client's socket takes no more: bytes wait. `taken`: how many it has taken in all, so far as the
    caller knows; from there on `handle_timer` counts progress.
    """

    taken: int = 0


@dataclass(frozen=True, slots=True)
class Unblocked:
    """Everything that waited has left."""


@dataclass(frozen=True, slots=True)
class Paused:
    """We stopped reading upstream."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """We read upstream again."""


@dataclass(frozen=True, slots=True)
class LeaveAt:
    """This stream is to be closed by us at `at`, for `reason`: the first such moment counts."""

    at: float
    reason: CloseReason


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that only `reason` can follow."""

    reason: CloseReason


Event = (
    CommitEarly
    | Opened
    | NotOpened
    | UpstreamLost
    | ClientGone
    | Blocked
    | Unblocked
    | Paused
    | Resumed
    | LeaveAt
    | Fault
)


# What is to be done.


@dataclass(frozen=True, slots=True)
class Commit:
    """Write the response head, and with it the first body byte: the confirm, or `:ok` before it."""

    confirm: bool


@dataclass(frozen=True, slots=True)
class Confirm:
    """Write the confirm event: upstream let its `wait` pass."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Let upstream go, and with it the block it has not finished: another will be asked for."""


@dataclass(frozen=True, slots=True)
class Reopen:
    """Ask upstream again, now."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Upstream is back: tell the client that for `gap` seconds, since upstream was lost for `reason`, events
    may be missing. `resumed` as in `Opened`.
    """

    reason: CloseReason
    gap: float
    resumed: bool


@dataclass(frozen=True, slots=True)
class Ping:
    """Write a ping. `idle_for`: seconds since upstream's last byte, not counting what we paused it."""

    idle_for: float


@dataclass(frozen=True, slots=True)
class Stalled:
    """Upstream has given no sign of life for `silent_for` seconds. Count it; where the policy says notify,
    write the client a notice, which the downstream clock takes for written.
    """

    silent_for: float


@dataclass(frozen=True, slots=True)
class Recovered:
    """A stalled upstream lives again, after `silent_for` seconds."""

    silent_for: float


@dataclass(frozen=True, slots=True)
class SilenceEnded:
    """Upstream sent something after `seconds`, a silence of at least one interval."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """End the client's stream at this block boundary and let upstream go."""

    reason: CloseReason


@dataclass(frozen=True, slots=True)
class Abort:
    """The end itself was not taken in time: drop the client's connection."""


Command = (
    Commit | Confirm | Drop | Reopen | Announce | Ping | Stalled | Recovered | SilenceEnded | Close | Abort
)
