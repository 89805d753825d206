"""The sections `early_commit` and `reconnect` of a stream.

Owns these keys, their defaults and their documentation. `policy` of a section is the frozen value that
the rest of the proxy uses. Durations are in seconds. A concern that is off is None.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote_to_bytes

from pydantic import AfterValidator, Field, Strict, WithJsonSchema

from sse_keepalive_proxy.config.types.fields import OFF, Fault, Section, refuse
from sse_keepalive_proxy.config.types.shapes import Method, QueryName
from sse_keepalive_proxy.config.types.units import Duration, ShortDuration
from sse_keepalive_proxy.stream import policy

__all__ = ["EarlyCommit", "Reconnect"]

_When = Annotated[policy.ReconnectWhen, Strict(False)]
_OnRefusal = Annotated[policy.OnRefusal, Strict(False)]


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
    """A 200 for the client before upstream has answered."""

    after: Annotated[Duration | None, OFF] = Field(
        default=None,
        description="The longest wait for upstream's answer before the client gets a 200. An earlier "
        "answer is passed on unchanged. A later refusal is reported inside the stream, in the words of the "
        "client's family, and the next request with the same credential waits for the real status.",
    )
    methods: Annotated[tuple[Method, ...], Strict(False), Field(min_length=1)] = Field(
        default=("GET",),
        description="The methods of requests that may get an early 200, in upper case. All but a GET without "
        'a body also need `"stream": true` in a JSON body, or an `Accept` that names event streams. Other '
        "requests, and all of MCP, wait for upstream's own status.",
    )

    @property
    def policy(self) -> policy.EarlyCommit | None:
        """The section as a frozen policy, or None if `after` is off."""
        if self.after is None:
            return None
        return policy.EarlyCommit(self.after, frozenset(self.methods))


class Reconnect(Section):
    """The reconnect to an upstream that ended, broke or refused, while the client stays connected."""

    when: Annotated[_When | None, OFF] = Field(
        default=policy.ReconnectWhen.RESUMABLE,
        description="The streams that are opened again: `resumable` those of an EventSource with a last "
        "event ID, `always` every GET. A request with a body is never repeated. With off no request is "
        "repeated.",
    )
    first_within: Annotated[Duration | None, OFF] = Field(
        default=8.0,
        description="How long failed attempts are repeated for an EventSource that has no answer yet. Then "
        "it gets the real status. A browser page may give up after 10 s without headers.",
    )
    delay: ShortDuration = Field(
        default=0.25,
        description="The longest wait before the first attempt; it doubles with every further attempt. The "
        "real wait is random and shorter, so that clients do not come back together. A wait that upstream "
        "demands is added.",
    )
    max_delay: Duration = Field(
        default=15.0,
        description="The limit of the doubled delay. Only a sign of life of upstream resets the delay; an "
        "answer alone does not.",
    )
    give_up_after: Duration = Field(
        default=300.0,
        description="How long a stream may be without upstream before it is closed. The reason is then "
        "`give_up`.",
    )
    on_status: Annotated[tuple[_Failure, ...], Strict(False)] = Field(
        default=(409, 429, 500, 502, 503, 504),
        description="The statuses of upstream that allow another attempt; 409 only for a stream that "
        "upstream had opened before. Any other answer without an event stream ends the stream.",
    )
    cursors: Annotated[tuple[QueryName, ...], Strict(False)] = Field(
        default=("last-event-id", "lastEventId", "last_event_id"),
        description="Query parameters that carry an event id. When upstream is opened again, they get the "
        "last id. Without an id, or with a parameter `cursor` that is not listed here, a stream is not "
        "opened again after an event, because upstream would repeat events.",
    )
    client_retry: Annotated[Duration | None, OFF] = Field(
        default=None,
        description="The `retry:` in the confirm for an EventSource: how long it waits before it reconnects "
        "by itself. With off only upstream and `stream_closing` set it.",
    )
    on_refusal: _OnRefusal = Field(
        default=policy.OnRefusal.END,
        description="The meaning of a 401 or 403 when upstream is asked again: the stream ends with reason "
        "`unauthorized`, or the client is kept with pings until its own token expires. `keep` needs "
        "`identity` with `verify: jwt`. In a group (`share`), the next attempt uses the newest "
        "credential of its clients.",
    )
    announce: bool = Field(
        default=True,
        description="Sends the client an event named `stream_recovered` after a gap. If the confirm is a "
        "comment, the notice is a comment too.",
    )

    @property
    def policy(self) -> policy.Reconnect | None:
        """The section as a frozen policy, or None if `when` is off."""
        if self.when is None:
            return None
        return policy.Reconnect(
            when=self.when,
            first_within=self.first_within,
            delay=self.delay,
            max_delay=self.max_delay,
            give_up_after=self.give_up_after,
            on_status=frozenset(self.on_status),
            cursors=frozenset(unquote_to_bytes(name) for name in self.cursors),
            announce=self.announce,
            on_refusal=self.on_refusal,
        )
