"""A client's place in a group: for its stream, the body of upstream's answer. The credentials of a group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from sse_keepalive_proxy.http.exchange import Body, Exchange, Sink
from sse_keepalive_proxy.live.bridged import Bridged
from sse_keepalive_proxy.live.leave_notice import LeaveNotice
from sse_keepalive_proxy.live.relay import Relay
from sse_keepalive_proxy.stream.late_error import LateStatus
from sse_keepalive_proxy.stream.messages import Announce, CloseReason
from sse_keepalive_proxy.stream.replay_log import GapReason
from sse_keepalive_proxy.stream.states import State

__all__ = ["Credential", "Credentials", "Member", "Membership", "Sharing"]


class Member(Protocol):
    """The stream of one client in a group."""

    flow: Relay

    def waits_for_upstream(self, *, clean: bool) -> bool:
        """Return whether the client stays when upstream is lost. `clean`: upstream has ended its body."""

    def group_back(self, back: Announce) -> None:
        """Tell the client that upstream was away."""

    def group_stalled(self, silent_for: float) -> None:
        """Tell the client that upstream gives no sign of life."""

    def group_over(self, reason: CloseReason, late: LateStatus | None) -> None:
        """End the stream with `reason`. `late`: the answer of upstream that caused the end."""

    def missed(self, gap: GapReason) -> None:
        """Tell the client that events since its last id cannot be sent again."""

    def leave(self, at: float, reason: CloseReason) -> None:
        """End the stream at `at` (loop time)."""


class Sharing(Protocol):
    """The group of a membership."""

    flow: Relay
    notice: LeaveNotice | None
    stream_id: str
    target: str

    @property
    def state(self) -> State:
        """The state of upstream's stream."""

    def enter(self, membership: Membership) -> None:
        """Begin to deliver."""

    def exit(self, membership: Membership) -> None:
        """Deliver no more. It may have been done already, or never begun."""


class Credential:
    """A credential that upstream has accepted for a group, and how upstream is asked with it.

    `fingerprint` is that of the whole request, `bare` the head of the request for upstream, as `Reconnection`
    takes it. `head`: that of upstream's answer, for clients that join without asking, as bytes: a
    `ResponseHead` takes ten times the memory. `selected`: a fingerprint of the request fields by which
    upstream has chosen this answer, those of `varies`; None: every client must ask. `accepted_at` is on the
    loop's clock, `expires_at` in Unix seconds. `members`: how many clients came with it. `leaves_at`: when
    they leave, on the loop's clock, because upstream has refused it; None: not for this reason.
    """

    leaves_at: float | None

    __slots__ = (
        "accepted_at", "bare", "expires_at", "fingerprint", "head", "leaves_at", "members", "refused",
        "selected", "varies",
    )  # fmt: skip

    def __init__(
        self,
        fingerprint: bytes,
        bare: bytes,
        head: bytes,
        *,
        varies: tuple[bytes, ...],
        selected: bytes | None,
        expires_at: float | None,
        now: float,
    ) -> None:
        self.fingerprint, self.bare, self.expires_at = fingerprint, bare, expires_at
        self.members = 0
        self.accepted(head, varies, selected, now)

    def accepted(self, head: bytes, varies: tuple[bytes, ...], selected: bytes | None, now: float) -> None:
        """Note that upstream has accepted it at `now`, and the answer."""
        self.head, self.varies, self.selected, self.accepted_at = head, varies, selected, now
        self.refused, self.leaves_at = False, None

    def keep_until_expiry(self, now: float) -> None:
        """Let its clients leave when it expires, if upstream does not accept it again before."""
        if self.expires_at is not None:
            self.leaves_at = now + self.expires_at - time.time()


class Credentials:
    """The credentials of a group, the newest accepted last."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: list[Credential] = []

    def __iter__(self) -> Iterator[Credential]:
        return iter(self._known)

    def accept(self, credential: Credential) -> None:
        """Note that upstream has accepted `credential`, which is the newest now."""
        if credential in self._known:
            self._known.remove(credential)
        self._known.append(credential)

    def forget_unused(self, until: float) -> list[Credential]:
        """Forget and return those without a client that were accepted before `until` (loop time)."""
        gone = [known for known in self._known if not known.members and known.accepted_at < until]
        for unused in gone:
            self._known.remove(unused)
        return gone

    @property
    def newest(self) -> Credential | None:
        """That with which upstream is asked again: the newest accepted of the clients, not refused since."""
        usable = [known for known in self._known if not known.refused]
        known = [each for each in usable if each.members] or usable
        return known[-1] if known else None

    def put_back(self, credential: Credential) -> None:
        """Ask upstream with each other one before `credential`."""
        if credential in self._known:
            self._known.remove(credential)
            self._known.insert(0, credential)

    @property
    def leaves_at(self) -> float | None:
        """The next time at which clients leave because upstream has refused their credential, or None."""
        times = [known.leaves_at for known in self._known if known.leaves_at is not None and known.members]
        return min(times, default=None)

    def expired(self, now: float) -> list[Credential]:
        """Return those whose clients must leave at `now`. Each is returned once."""
        due = [known for known in self._known if known.leaves_at is not None and now >= known.leaves_at]
        for known in due:
            known.leaves_at = None
        return due


class Membership:
    """One client's place in `group`, as a `Body`.

    `accepted`: upstream's answer to this client's own request, sent at `asked_at` (loop time); the group
    reads it from then on, and `answered` is called. None: the client joins without asking. `resumes`: the
    request had the id of the group's last event. `last_id`: the id with which the client returns, or `b""`.
    `gap`: what is known already of its missing events. `bridge`: the client's own place at the bridge, until
    it begins.
    """

    __slots__ = (
        "accepted", "answered", "asked_at", "bridge", "credential", "flow", "gap", "group", "last_id",
        "member", "request_sent", "resumes",
    )  # fmt: skip

    def __init__(
        self,
        group: Sharing,
        credential: Credential,
        *,
        accepted: Body | None = None,
        asked_at: float = 0.0,
        answered: Callable[[], None] | None = None,
        resumes: bool = False,
        last_id: bytes = b"",
        gap: GapReason | None = None,
    ) -> None:
        self.group, self.credential = group, credential
        self.accepted, self.asked_at, self.answered = accepted, asked_at, answered
        self.resumes = resumes
        self.last_id, self.gap = last_id, gap
        self.bridge: Bridged | None = None
        self.member: Member | None = None
        self.flow: Relay | None = None
        self.request_sent = True

    @property
    def early(self) -> bytes:
        """Nothing: bytes come after `attach`."""
        return b""

    def attach(self, sink: Sink, *, paused: bool = False) -> None:  # noqa: ARG002 (the member has its relay)
        """Begin to deliver to the member: first what it has missed."""
        self.group.enter(self)

    def pause(self) -> None:
        """Do nothing: a slow client does not pause the others."""

    def resume(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Leave the group. The member gets no more calls."""
        self.group.exit(self)

    def read_out(self) -> tuple[bytes, bool]:
        """Return nothing: the group reads upstream."""
        return b"", False

    def part(self, let_go: Callable[[Exchange], None]) -> None:  # noqa: ARG002 (upstream is the group's)
        """Leave the group, which looks after upstream."""
        self.close()
