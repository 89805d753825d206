"""The input and the output of a lifecycle: events and commands.

These are values. `stream.lifecycle` defines their meaning. Times and durations are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from sse_keepalive_proxy.stream.states import CloseReason

__all__ = [
    "Abandon",
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
    "Event",
    "Fault",
    "Finished",
    "ForClients",
    "Hasten",
    "KeepUntil",
    "LeaveAt",
    "Missed",
    "NotOpened",
    "Opened",
    "Paused",
    "Ping",
    "Recovered",
    "Release",
    "Reopen",
    "Replaced",
    "Resumed",
    "SilenceEnded",
    "Stalled",
    "Unblocked",
    "UpstreamLost",
]


# Events. Upstream's blocks are not events: they go through `Lifecycle.received`.


@dataclass(frozen=True, slots=True)
class CommitEarly:
    """Upstream has not answered, and the client's response must begin now. `confirm`: with the confirm,
    because the stream is served whatever upstream answers.
    """

    confirm: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """Upstream answered 2xx with an event stream, for the first time or again.

    `confirm_wait`: the first time, upstream has so many seconds to send its first bytes; then the confirm
    event follows. `resumed`: the request had `Last-Event-ID`.
    """

    confirm_wait: float = 0.0
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class NotOpened:
    """An attempt for a client whose response has begun gave no event stream.

    `again`: another attempt may follow, after at least `at_least` seconds. Otherwise the stream ends with
    `reason`.
    """

    reason: CloseReason
    again: bool
    at_least: float = 0.0


@dataclass(frozen=True, slots=True)
class UpstreamLost:
    """Upstream's body ended or broke off, for `reason`. `at_least`: the wait that upstream demands."""

    reason: CloseReason
    at_least: float = 0.0


@dataclass(frozen=True, slots=True)
class Missed:
    """Upstream has not delivered a message of NATS in time."""


@dataclass(frozen=True, slots=True)
class Hasten:
    """Upstream is back for another stream: the next attempt is at most `within` seconds from now."""

    within: float


@dataclass(frozen=True, slots=True)
class ClientGone:
    """The client's connection is lost or half-closed."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """The client's socket is full, and bytes wait.

    `taken`: the bytes that it has accepted so far. `handle_timer` measures progress from this number.
    """

    taken: int = 0


@dataclass(frozen=True, slots=True)
class Unblocked:
    """No byte waits for the client any more."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Upstream has sent the last event of its protocol. `finished` is false for another event after it."""

    finished: bool


@dataclass(frozen=True, slots=True)
class Paused:
    """The proxy has paused reading from upstream."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The proxy reads from upstream again."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """Another stream of upstream, which was asked for at `asked_at` and accepted, takes the place of the one
    that was read. `resumed` as in `Opened`.
    """

    asked_at: float
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class KeepUntil:
    """If upstream refuses the credential when it is opened again, the client stays until `at`."""

    at: float


@dataclass(frozen=True, slots=True)
class LeaveAt:
    """The proxy must close the stream at the time `at`, for `reason`. The earliest such time counts."""

    at: float
    reason: CloseReason


@dataclass(frozen=True, slots=True)
class Fault:
    """The stream must end now, with `reason`."""

    reason: CloseReason


Event = (
    CommitEarly
    | Opened
    | NotOpened
    | UpstreamLost
    | Hasten
    | Missed
    | Finished
    | ClientGone
    | Blocked
    | Unblocked
    | Paused
    | Resumed
    | Replaced
    | KeepUntil
    | LeaveAt
    | Fault
)


# Commands.


@dataclass(frozen=True, slots=True)
class Commit:
    """Write the response head and the first body bytes: the confirm event, or `:ok` if it comes later."""

    confirm: bool


@dataclass(frozen=True, slots=True)
class Confirm:
    """Write the confirm event. Upstream sent nothing during `wait`, or answered after an early commit."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Give up the attempt under way, if there is one: upstream's old stream stays."""


@dataclass(frozen=True, slots=True)
class Reopen:
    """Open upstream again, now. If its stream is still there, keep it until a new one is accepted."""


@dataclass(frozen=True, slots=True)
class Release:
    """Forward the unfinished block as far as it has come, and its rest as it comes."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Upstream is back. Write the notice that events of the last `gap` seconds may be missing.

    `reason` is the reason of the loss; `resumed` as in `Opened`.
    """

    reason: CloseReason
    gap: float
    resumed: bool


@dataclass(frozen=True, slots=True)
class Ping:
    """Write a ping. `idle_for`: seconds since upstream's last byte, without pauses."""

    idle_for: float


@dataclass(frozen=True, slots=True)
class Stalled:
    """Upstream has given no sign of life for `silent_for` seconds. Count it.

    If the policy says `notify`, also write a notice. The downstream clock already counts it as written.
    """

    silent_for: float


@dataclass(frozen=True, slots=True)
class Recovered:
    """A stalled upstream gave a sign of life after `silent_for` seconds."""

    silent_for: float


@dataclass(frozen=True, slots=True)
class SilenceEnded:
    """Upstream sent something after a silence of `seconds`, at least one keepalive interval."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """End the client's stream at this block boundary and close the upstream connection."""

    reason: CloseReason


@dataclass(frozen=True, slots=True)
class Abort:
    """The client did not accept the end in time. Drop its connection."""


ForClients = Commit | Confirm | Announce | Ping | Stalled | Abort
"""The commands that concern clients."""

Command = ForClients | Reopen | Abandon | Release | Recovered | SilenceEnded | Close
