"""What is done about silence: `confirm`, `keepalive` and `stall` of a route's `stream`, as they are written.

Owns these keys, their defaults and their documentation; each section's `policy` is the frozen value
that the rest of the proxy works with. Durations are seconds, sizes bytes; what is off is None.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, Strict

from sse_keepalive_proxy.config.types.event_data import ConfirmData, EventData
from sse_keepalive_proxy.config.types.fields import NULL_IS_DEFAULTS, OFF, Section
from sse_keepalive_proxy.config.types.shapes import EventName, PlainLine, Word
from sse_keepalive_proxy.config.types.units import Duration, KeepaliveDuration, Size, StallDuration
from sse_keepalive_proxy.stream import policy

__all__ = ["Confirm", "Ignore", "Keepalive", "Stall"]

# A strict model takes an enum's member only; these take its text, and nothing else.
_ConfirmForm = Annotated[policy.ConfirmForm, Strict(False)]
_KeepaliveForm = Annotated[policy.KeepaliveForm, Strict(False)]
_Terminator = Annotated[policy.Terminator, Strict(False)]
_SignOfLife = Annotated[policy.SignOfLife, Strict(False)]
_StallAction = Annotated[policy.StallAction, Strict(False)]


class Confirm(Section):
    """What a client gets at once, so that no hop and no browser waits on silence."""

    form: Annotated[_ConfirmForm | None, OFF] = Field(
        default=policy.ConfirmForm.AUTO,
        description="Whether the first bytes are an event that scripts can hear, or a comment that none can. "
        "`auto` sends the event to a body-less GET with exactly `Accept: text/event-stream` and the comment "
        "`:ok` to everybody else, because libraries for language models break on an unexpected event.",
    )
    event: PlainLine = Field(
        default="connection_confirmed",
        description="The name of the confirm event. "
        'An empty name ("") makes it unnamed, the only kind that `onmessage` hears.',
    )
    data: ConfirmData = Field(
        default={"type": "connection_confirmed", "stream_id": "{stream_id}", "timestamp": "{now}"},
        description="The JSON that the confirm event carries. "
        "`{stream_id}`, `{now}`, `{route}` and, with `identity`, a claim such as `{claim.user.id}` in its "
        "strings are filled in for each stream: a string that is nothing but one claim becomes its JSON "
        "value. What is written here takes the place of the whole default.",
    )
    padding: Annotated[Size | None, OFF] = Field(
        default=None,
        description="Sends a comment of this size before anything else. "
        "It pushes the first bytes through hops that hold a response until some KiB have come together.",
    )
    wait: Annotated[Duration | None, OFF] = Field(
        default=None,
        description="Gives upstream this long to speak first. "
        "If it does, no confirm event is sent; `:ok` leaves with the headers in any case.",
    )

    @property
    def policy(self) -> policy.Confirm | None:
        """The promise, or None when `form` is off."""
        if self.form is None:
            return None
        return policy.Confirm(self.form, self.event, self.data, self.padding or 0, self.wait or 0.0)


class Keepalive(Section):
    """What is written when a client has heard nothing for a while."""

    interval: KeepaliveDuration = Field(
        default=15.0,
        description="How long a client may hear nothing before a ping is sent. "
        "Keep it well under the idle limit of every hop on the way: nginx and AWS give up after 60 s, "
        "Cloudflare after 100 s.",
    )
    form: _KeepaliveForm = Field(
        default=policy.KeepaliveForm.COMMENT,
        description="Whether a ping is a comment, which no script sees, or an event. "
        "Choose the event only for a client that watches for pings itself.",
    )
    text: PlainLine = Field(
        default="ping",
        description="What the ping comment says after its colon. Nothing reads it but people with curl.",
    )
    terminator: _Terminator = Field(
        default=policy.Terminator.AUTO,
        description="How the ping comment ends: with a blank line or with a single newline. "
        "`auto` writes a blank line until upstream has sent an event id and a newline from then on, "
        "because some libraries make an empty event of an id followed by a blank line.",
    )
    event: PlainLine = Field(
        default="ping",
        description="The name of the ping when it is an event. "
        'An empty name ("") makes it unnamed; as a comment it has none.',
    )
    data: EventData = Field(
        default={"type": "ping", "timestamp": "{now}"},
        description="The JSON that a ping carries when it is an event. "
        "`{now}`, `{route}` and `{stream_id}` in its strings are filled in for each ping.",
    )
    report_idle: bool = Field(
        default=False,
        description="Adds to each ping comment how long upstream has been silent, "
        "as in `:ping upstream_idle=95s`. It shows with plain curl what a ping would otherwise cover.",
    )

    @property
    def policy(self) -> policy.Keepalive:
        """The promise."""
        return policy.Keepalive(**_fields(self))


class Ignore(Section):
    """Events that upstream sends by the clock and that prove nothing."""

    events: Annotated[tuple[EventName, ...], Strict(False)] = Field(
        default=(),
        description="Names of events that do not count as a sign of life. "
        "Name here what upstream sends by the clock.",
    )
    types: Annotated[tuple[Word, ...], Strict(False)] = Field(
        default=(),
        description="Values of `type` in an event's JSON that do not count as a sign of life. "
        "It tells heartbeats apart where all events share one name.",
    )


class Stall(Section):
    """When upstream counts as stalled, and what is done about it."""

    after: StallDuration = Field(
        default=60.0,
        description="How long upstream may give no sign of life before the stream counts as stalled. "
        "It shows in `/streams` and in the metrics at once, whatever the action.",
    )
    sign_of_life: _SignOfLife = Field(
        default=policy.SignOfLife.EVENTS,
        description="The least that counts as a sign of life: any bytes, a comment or an event. "
        "It must be written out for any action but `observe`, so that nobody acts on a guess.",
    )
    ignore: Annotated[Ignore, NULL_IS_DEFAULTS] = Field(
        default=Ignore(),
        description="Events that do not count as a sign of life. "
        "Without it, a heartbeat from a half-dead upstream looks like a healthy stream.",
    )
    action: _StallAction = Field(
        default=policy.StallAction.OBSERVE,
        description="What happens to a stalled stream besides being counted. "
        "`notify` also sends the client an event named `stalled`; `reconnect` opens upstream again "
        "behind the live client, as `reconnect` allows.",
    )
    close_after: Annotated[Duration | None, OFF] = Field(
        default=None,
        description="How long pings may cover for a stalled upstream before the stream is closed. "
        "The client then sees the end and can reconnect or fall back; off lets it wait for ever.",
    )

    @property
    def policy(self) -> policy.Stall:
        """The promise."""
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
