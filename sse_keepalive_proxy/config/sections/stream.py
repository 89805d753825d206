"""A route's `stream` section: what its streams are promised, as it is written.

Owns the keys that are no section of their own, and the order of all of them; the sections are in
`config.client`, `config.silence` and `config.opening`. `Stream.policy` turns them into the frozen
values that the rest of the proxy works with. Durations are seconds, sizes bytes; a concern that is
off is None.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, Strict

from sse_keepalive_proxy.config.sections.client import Identity
from sse_keepalive_proxy.config.sections.opening import EarlyCommit, Reconnect
from sse_keepalive_proxy.config.sections.silence import Confirm, Keepalive, Stall
from sse_keepalive_proxy.config.types.fields import NULL_IS_DEFAULTS, OFF, Section
from sse_keepalive_proxy.config.types.shapes import CredentialPlace, EventName
from sse_keepalive_proxy.config.types.units import Duration, Size
from sse_keepalive_proxy.stream import policy

__all__ = ["Head", "Rewrite", "Stream"]


class Head(StrEnum):
    """What becomes of a HEAD request on a stream route."""

    PASS = "pass"  # noqa: S105 - a key word, not a password
    REFUSE = "refuse"


class Rewrite(Section):
    """What is changed in upstream's own events; nothing else ever is."""

    unname: Annotated[tuple[EventName, ...], Strict(False)] = Field(
        default=(),
        description="Names of events whose `event:` line is dropped. "
        "A browser's `onmessage` hears unnamed events only, so this makes them audible to it.",
    )


class Stream(Section):
    """How the streams of a route are treated. Every default holds when nothing is written."""

    credential: Annotated[tuple[CredentialPlace, ...], Strict(False)] = Field(
        default=("query:access_token", "header:authorization", "header:cookie"),
        description="Where a client's credential is, as `query:NAME` or `header:name`. "
        "What stands there never reaches a log or a status page.",
    )
    identity: Annotated[Identity | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=None,
        description="Who a client is, by the claims of its own token. "
        "Claims can then be told to the client in its confirm event, and a stream can end with its token.",
    )
    head: Annotated[Head, Strict(False)] = Field(
        default=Head.PASS,
        description="Whether a HEAD request goes to upstream or is refused with 405. "
        "Refuse it where upstream runs the whole handler for a HEAD and disturbs a live stream by it.",
    )
    confirm: Annotated[Confirm | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=Confirm(),
        description="What a client gets at once. "
        "Off leaves a client without a body byte until upstream sends its first or a ping is due.",
    )
    keepalive: Annotated[Keepalive | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=Keepalive(),
        description="What is written when a client has heard nothing for a while. "
        "Off leaves a silent stream to the idle limits of every hop.",
    )
    stall: Annotated[Stall | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=Stall(),
        description="When upstream counts as stalled, and what then. "
        "Off means that pings can cover for a dead upstream unseen.",
    )
    early_commit: Annotated[EarlyCommit | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=EarlyCommit(),
        description="A 200 for a client before upstream has answered. "
        "It is for clients that give up on an upstream whose response headers come late.",
    )
    open_timeout: Duration = Field(
        default=300.0,
        description="How long upstream may take to send a response head. "
        "It counts from the connection on, which has a `connect_timeout` of its own.",
    )
    reconnect: Annotated[Reconnect | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=Reconnect(),
        description="How a lost upstream is opened again behind the live client. "
        "Off, the end of upstream is the end of the client's stream.",
    )
    rewrite: Annotated[Rewrite, NULL_IS_DEFAULTS] = Field(
        default=Rewrite(),
        description="What is changed in upstream's own events. By default they pass byte for byte.",
    )
    max_age: Annotated[Duration | None, OFF] = Field(
        default=None,
        description="How old a stream may become before it is closed, less up to 20 % chosen at random. "
        "It ends after a whole event, with reason `max_age`, and lets a load balancer spread clients anew.",
    )
    max_event: Size = Field(
        default=1 << 20,
        description="The largest single event that upstream may send. "
        "A larger one closes the stream with reason `event_too_large`.",
    )
    max_buffer: Size = Field(
        default=1 << 20,
        description="How many bytes may wait for one slow client. "
        "Past it the proxy stops reading from upstream until the client has caught up.",
    )
    write_timeout: Duration = Field(
        default=30.0,
        description="How long a client may take nothing before its stream is closed. "
        "The reason is then `client_stalled`; without this bound vanished clients would pile up.",
    )

    @property
    def policy(self) -> policy.StreamPolicy:
        """The frozen promise to every stream of the route. Build it once for each route.

        The token of `identity` is a credential, whether or not `credential` names its place.
        """
        identity = self.identity.policy if self.identity else None
        return policy.StreamPolicy(
            credential=_with_identity(self.credential, identity),
            identity=identity,
            refuse_head=self.head is Head.REFUSE,
            confirm=self.confirm.policy if self.confirm else None,
            keepalive=self.keepalive.policy if self.keepalive else None,
            stall=self.stall.policy if self.stall else None,
            early_commit=self.early_commit.policy if self.early_commit else None,
            open_timeout=self.open_timeout,
            reconnect=self.reconnect.policy if self.reconnect else None,
            unname=frozenset(self.rewrite.unname),
            max_age=self.max_age,
            max_event=self.max_event,
            max_buffer=self.max_buffer,
            write_timeout=self.write_timeout,
        )


def _with_identity(places: tuple[str, ...], identity: policy.Identity | None) -> tuple[str, ...]:
    return places if identity is None or identity.source in places else (*places, identity.source)
