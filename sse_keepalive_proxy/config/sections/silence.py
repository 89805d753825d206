"""The sections `confirm`, `keepalive` and `stall` of a stream.

Owns these keys, their defaults and their documentation. `policy` of a section is the frozen value that
the rest of the proxy uses. Durations are in seconds, sizes in bytes. A concern that is off is None.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, Strict

from sse_keepalive_proxy.config.types.event_data import ClaimsData, EventData
from sse_keepalive_proxy.config.types.fields import NULL_IS_DEFAULTS, OFF, Section
from sse_keepalive_proxy.config.types.shapes import EventName, PlainLine, Word
from sse_keepalive_proxy.config.types.units import Duration, KeepaliveDuration, Size, StallDuration
from sse_keepalive_proxy.stream import policy

__all__ = ["Confirm", "Ignore", "Keepalive", "Stall"]

# A strict model accepts only the members of an enum. These types also accept their text.
_ConfirmForm = Annotated[policy.ConfirmForm, Strict(False)]
_KeepaliveForm = Annotated[policy.KeepaliveForm, Strict(False)]
_Terminator = Annotated[policy.Terminator, Strict(False)]
_SignOfLife = Annotated[policy.SignOfLife, Strict(False)]
_StallAction = Annotated[policy.StallAction, Strict(False)]


class Confirm(Section):
    """The first bytes for a client, sent at once, so that no hop and no browser waits for them."""

    form: Annotated[_ConfirmForm | None, OFF] = Field(
        default=policy.ConfirmForm.AUTO,
        description="The form of the first bytes: an event, which scripts can receive, or a comment, which "
        "they cannot. `auto` sends the event to an EventSource and the comment to others, because an "
        "unexpected event breaks clients of language models. `event` and `comment` are for every family of "
        "clients, and also for the notices of a gap, a stall and an end.",
    )
    event: PlainLine = Field(
        default="connection_confirmed",
        description='The name of the confirm event. An empty name ("") makes an unnamed event; `onmessage` '
        "receives only unnamed events.",
    )
    data: ClaimsData = Field(
        default={"type": "connection_confirmed", "stream_id": "{stream_id}", "timestamp": "{now}"},
        description="The JSON of the confirm event. A value here replaces the whole default. "
        "`{stream_id}`, `{now}`, `{route}` and, with `identity`, claims such as `{claim.user.id}` are "
        "filled in; a string that is only one claim becomes its JSON value.",
    )
    padding: Annotated[Size | None, OFF] = Field(
        default=None,
        description="The size of a comment before the first bytes. It fills the buffer of a hop that holds "
        "back small responses.",
    )
    wait: Annotated[Duration | None, OFF] = Field(
        default=None,
        description="How long upstream may send the first event itself. If it does, there is no confirm "
        "event. `:ok` is sent with the headers in any case.",
    )

    @property
    def policy(self) -> policy.Confirm | None:
        """The section as a frozen policy, or None if `form` is off."""
        if self.form is None:
            return None
        return policy.Confirm(self.form, self.event, self.data, self.padding or 0, self.wait or 0.0)


class Keepalive(Section):
    """The pings for a client that has received nothing for a while."""

    interval: KeepaliveDuration = Field(
        default=15.0,
        description="The longest silence towards a client; then a ping is sent. Keep it well below the "
        "idle limit of every hop: 60 s for nginx and AWS, 100 s for Cloudflare.",
    )
    form: _KeepaliveForm = Field(
        default=policy.KeepaliveForm.COMMENT,
        description="The form of a ping: a comment, which scripts cannot see, or an event. Use the event "
        "only for a client that waits for pings. An event is sent when the client has got no event for "
        "`interval`; comments of upstream do not count.",
    )
    text: PlainLine = Field(
        default="ping",
        description="The text of the ping comment. Programs ignore it; people see it with curl.",
    )
    terminator: _Terminator = Field(
        default=policy.Terminator.AUTO,
        description="The end of every comment of the proxy: a blank line or a single newline. `auto` chooses "
        "what the family of the client needs. To some libraries a blank line is an empty event; others lose "
        "an event behind a single newline.",
    )
    padding: Annotated[Size | None, OFF] = Field(
        default=None,
        description="The least size of a ping, filled up with comments. It is for hops that hold back small "
        "writes.",
    )
    event: PlainLine = Field(
        default="ping",
        description='The name of a ping event. An empty name ("") makes an unnamed event. A ping comment '
        "has no name.",
    )
    data: EventData = Field(
        default={"type": "ping", "timestamp": "{now}"},
        description="The JSON of a ping event. `{now}`, `{route}` and `{stream_id}` in its strings are "
        "filled in.",
    )
    report_idle: bool = Field(
        default=False,
        description="Adds upstream's silence to each ping comment, as in `:ping upstream_idle=95s`. Then "
        "curl shows a silence that pings would hide.",
    )

    @property
    def policy(self) -> policy.Keepalive:
        """The section as a frozen policy."""
        return policy.Keepalive(**{**_fields(self), "padding": self.padding or 0})


class Ignore(Section):
    """Events that upstream sends at fixed intervals and that are not a sign of life."""

    events: Annotated[tuple[EventName, ...], Strict(False)] = Field(
        default=(),
        description="Names of events that are not a sign of life. Name the events that upstream sends at "
        "fixed intervals.",
    )
    types: Annotated[tuple[Word, ...], Strict(False)] = Field(
        default=(),
        description="Values of `type` in an event's JSON that are not a sign of life. Use it if all events "
        "of upstream have the same name.",
    )


class Stall(Section):
    """The time after which upstream counts as stalled, and the action then."""

    after: StallDuration = Field(
        default=60.0,
        description="The longest time without a sign of life; then the stream counts as stalled. "
        "`/streams` and the metrics show it with every action.",
    )
    sign_of_life: _SignOfLife = Field(
        default=policy.SignOfLife.EVENTS,
        description="The least that is a sign of life: any bytes, a comment or an event. With `bridge` it is "
        "an event, and a stream stalls only if NATS had a message for it that upstream has not delivered "
        "within `bridge.grace`. Every action except `observe` requires this key, so that the choice is "
        "deliberate.",
    )
    ignore: Annotated[Ignore, NULL_IS_DEFAULTS] = Field(
        default=Ignore(),
        description="Events that are not a sign of life. Without it, heartbeats of a broken upstream make "
        "a stream look healthy.",
    )
    action: _StallAction = Field(
        default=policy.StallAction.OBSERVE,
        description="The action for a stalled stream. `observe` only counts it. `notify` also sends the "
        "client an event named `stalled`; `reconnect` opens upstream again as `reconnect` allows, and "
        "keeps the old stream until a new one is accepted.",
    )
    close_after: Annotated[Duration | None, OFF] = Field(
        default=None,
        description="How long a stalled stream is kept open with pings before it is closed. The client can "
        "then reconnect or use a fallback. With off it is never closed for this.",
    )

    @property
    def policy(self) -> policy.Stall:
        """The section as a frozen policy."""
        return policy.Stall(
            after=self.after,
            sign_of_life=self.sign_of_life,
            ignore_events=frozenset(self.ignore.events),
            ignore_types=frozenset(self.ignore.types),
            action=self.action,
            close_after=self.close_after,
        )


def _fields(section: Section) -> dict[str, Any]:
    return {name: getattr(section, name) for name in type(section).model_fields}
