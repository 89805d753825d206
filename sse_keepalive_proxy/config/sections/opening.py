"""How upstream is opened, and opened again: `early_commit` and `reconnect` of a route's `stream`.

Owns these keys, their defaults and their documentation; each section's `policy` is the frozen value
that the rest of the proxy works with. Durations are seconds; what is off is None.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, Strict, WithJsonSchema

from sse_keepalive_proxy.config.types.fields import OFF, Fault, Section, refuse
from sse_keepalive_proxy.config.types.shapes import Method
from sse_keepalive_proxy.config.types.units import Duration, ShortDuration
from sse_keepalive_proxy.stream import policy

__all__ = ["EarlyCommit", "Reconnect"]

_When = Annotated[policy.ReconnectWhen, Strict(False)]


def _failure(status: int) -> int:
    if not 400 <= status <= 599:
        raise refuse(Fault("not the status of a failure", "a number from 400 to 599"))
    return status


_Failure = Annotated[
    int,
    AfterValidator(_failure),
    WithJsonSchema({"type": "integer", "minimum": 400, "maximum": 599}),
]


class EarlyCommit(Section):
    """A 200 for a client before upstream has answered."""

    after: Annotated[Duration | None, OFF] = Field(
        default=None,
        description="How long upstream may take to answer before the client gets a 200 all the same. "
        "An answer that comes sooner is passed on as it is; a refusal that comes later can only be told "
        "inside the stream, and the same credential then waits for the real status next time.",
    )
    methods: Annotated[tuple[Method, ...], Strict(False), Field(min_length=1)] = Field(
        default=("GET",),
        description="The methods whose requests may be answered early, in upper case. "
        "All others wait for upstream's own status.",
    )

    @property
    def policy(self) -> policy.EarlyCommit | None:
        """The promise, or None when `after` is off."""
        if self.after is None:
            return None
        return policy.EarlyCommit(self.after, frozenset(self.methods))


class Reconnect(Section):
    """How an upstream that ended, broke or refused is opened again behind the live client."""

    when: Annotated[_When | None, OFF] = Field(
        default=policy.ReconnectWhen.RESUMABLE,
        description="Which streams are opened again: those of an EventSource that know the id of their last "
        "event, or every GET. A request with a body is never sent twice, and off asks nothing twice.",
    )
    first_within: Annotated[Duration | None, OFF] = Field(
        default=8.0,
        description="How long the first opening is tried again for an EventSource that has no answer yet. "
        "Then it gets the real status; a browser's client may give up after 10 s without headers.",
    )
    delay: ShortDuration = Field(
        default=0.25,
        description="The longest wait before the first attempt; it doubles with every further one. "
        "The real wait is random below it, so that streams lost together do not come back together, "
        "and never shorter than upstream asked for.",
    )
    max_delay: Duration = Field(
        default=15.0,
        description="What the doubled delay never exceeds. "
        "It starts over only after upstream has given a sign of life, not when it has merely answered.",
    )
    give_up_after: Duration = Field(
        default=300.0,
        description="How long a stream may be without upstream before it is closed. "
        "The reason is then `give_up`.",
    )
    on_status: Annotated[tuple[_Failure, ...], Strict(False)] = Field(
        default=(429, 500, 502, 503, 504),
        description="The statuses of upstream that are worth another attempt. "
        "Any other that is no event stream ends the stream.",
    )
    announce: bool = Field(
        default=True,
        description="Tells the client of a gap in an event named `stream_recovered`. "
        "Where the confirm is a comment, so is this.",
    )

    @property
    def policy(self) -> policy.Reconnect | None:
        """The promise, or None when `when` is off."""
        if self.when is None:
            return None
        return policy.Reconnect(
            when=self.when,
            first_within=self.first_within,
            delay=self.delay,
            max_delay=self.max_delay,
            give_up_after=self.give_up_after,
            on_status=frozenset(self.on_status),
            announce=self.announce,
        )
