"""The section `stream` of a route.

Owns its plain keys and the order of all its keys. Its sections are in `client`, `silence`, `opening`
and `sharing`.
`Stream.policy` returns the frozen value that the rest of the proxy uses. Durations are in seconds, sizes in
bytes. A concern that is off is None.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

from pydantic import Field, Strict, model_validator

from sse_keepalive_proxy.config.sections.bridge import Bridge
from sse_keepalive_proxy.config.sections.client import Identity
from sse_keepalive_proxy.config.sections.opening import EarlyCommit, Reconnect
from sse_keepalive_proxy.config.sections.sharing import Share
from sse_keepalive_proxy.config.sections.silence import Confirm, Keepalive, Stall
from sse_keepalive_proxy.config.types.bridging import PlainSubject
from sse_keepalive_proxy.config.types.event_data import ClaimsData, claims_in
from sse_keepalive_proxy.config.types.fields import NULL_IS_DEFAULTS, OFF, Fault, Section, refuse
from sse_keepalive_proxy.config.types.shapes import CredentialPlace, EventName
from sse_keepalive_proxy.config.types.units import Duration, Size
from sse_keepalive_proxy.stream import policy

__all__ = ["Credential", "Decode", "Head", "Leave", "LeavePublish", "Rewrite", "Stream"]


Credential = Annotated[tuple[CredentialPlace, ...], Strict(False)]
_Family = Annotated[policy.Family, Strict(False)]


class Head(StrEnum):
    """The treatment of a HEAD request on a stream route."""

    PASS = "pass"  # noqa: S105 - a key word, not a password
    REFUSE = "refuse"


class Decode(StrEnum):
    """Whether the content coding of an event stream is removed."""

    OFF = "off"
    ON = "on"


class LeavePublish(Section):
    """A message of the proxy on NATS: the last client of an upstream stream has gone."""

    subject: PlainSubject = Field(
        description="The subject of NATS on which it is published, without wildcards.",
    )
    data: ClaimsData = Field(
        description="The JSON of the message. It has the placeholders of `confirm.data`. At least one must "
        "be a claim, such as `{claim.user.id}`, and a client without it has left nothing to publish.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> LeavePublish:
        if not any(claims_in(self.data)):
            fault = Fault("must say who has gone", "write a claim, e.g. {claim.user.id}", at=("data",))
            raise refuse(fault)
        return self

    @property
    def policy(self) -> policy.LeavePublish:
        """The section as a frozen policy."""
        return policy.LeavePublish(self.subject, self.data)


class Leave(Section):
    """What upstream sees when the client of its stream has gone."""

    hold: Annotated[Duration | None, OFF] = Field(
        default=None,
        description="How long upstream's stream is kept open and read without its client, at most until "
        "upstream ends it. For servers that are harmed by a client that leaves, as notify-server is. With "
        "off upstream's stream is closed at once, so that upstream does no work for it.",
    )
    publish: Annotated[LeavePublish | None, OFF] = Field(
        default=None,
        description="What is published on NATS before upstream's stream is closed. It is for servers that "
        "then end the stream themselves, within 2 s, and needs `bridge`. If it cannot be published, `hold` "
        "applies.",
    )


class Rewrite(Section):
    """The changes to upstream's events. There are no others."""

    unname: Annotated[tuple[EventName, ...], Strict(False)] = Field(
        default=(),
        description="Names of events whose `event:` line is removed. A browser's `onmessage` receives only "
        "events without a name.",
    )


class Stream(Section):
    """The treatment of a route's event streams. An empty section has every default."""

    client: _Family = Field(
        default=policy.Family.AUTO,
        description="The family of the clients, which decides about the frames that they get. `auto` "
        "recognises the family of each request by its method, its body and its headers. Write a family if "
        "all clients of the route belong to it.",
    )
    credential: Credential = Field(
        default=policy.StreamPolicy().credential,
        description="The places of a client's credential, each `query:NAME` or `header:name`. Their values "
        "never reach a log or a status page.",
    )
    identity: Annotated[Identity | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=None,
        description="The client's identity, from the claims of its own token. The confirm event can then "
        "contain claims, and a stream can end when its token expires.",
    )
    head: Annotated[Head, Strict(False)] = Field(
        default=Head.PASS,
        description="The treatment of a HEAD request: passed to upstream, or refused with 405. Refuse it "
        "if upstream runs the whole handler for a HEAD and so disturbs a live stream.",
    )
    confirm: Annotated[Confirm | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=Confirm(),
        description="The first bytes for a client, sent at once. With off a client gets no body byte until "
        "upstream sends one or a ping is due.",
    )
    keepalive: Annotated[Keepalive | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=Keepalive(),
        description="The pings for a client that has received nothing for a while. With off the idle "
        "limits of the hops can end a silent stream.",
    )
    stall: Annotated[Stall | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=Stall(),
        description="The time after which upstream counts as stalled, and the action then. With off pings "
        "can hide a dead upstream.",
    )
    early_commit: Annotated[EarlyCommit | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=EarlyCommit(),
        description="A 200 for the client before upstream has answered. It is for clients that do not wait "
        "for late response headers.",
    )
    open_timeout: Duration = Field(
        default=300.0,
        description="The time limit for upstream's response head. It starts when the connection is open; "
        "opening it has its own `connect_timeout`.",
    )
    reconnect: Annotated[Reconnect | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=Reconnect(),
        description="The reconnect to a lost upstream while the client stays connected. With off the end "
        "of upstream ends the client's stream.",
    )
    share: Annotated[Share | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=Share(),
        description="One upstream stream for several clients of the same user. With off every client has an "
        "upstream stream of its own.",
    )
    bridge: Annotated[Bridge | None, OFF] = Field(
        default=None,
        description="The messages of NATS for clients that upstream does not deliver. It is for servers that "
        "get their messages from NATS and lose some. It needs `identity` and the extra `nats`.",
    )
    leave: Annotated[Leave, NULL_IS_DEFAULTS] = Field(
        default=Leave(),
        description="What upstream sees when the client of its stream has gone.",
    )
    rewrite: Annotated[Rewrite, NULL_IS_DEFAULTS] = Field(
        default=Rewrite(),
        description="Changes to upstream's events. Without it events pass byte for byte.",
    )
    max_age: Annotated[Duration | None, OFF] = Field(
        default=None,
        description="The largest age of a stream, minus a random part of up to 20 %. The stream then ends "
        "after a whole event, with reason `max_age`. So a load balancer can spread clients again.",
    )
    decode: Annotated[Decode, Strict(False)] = Field(
        default=Decode.OFF,
        description="Whether an event stream with the content coding gzip, deflate, br or zstd is decoded. "
        "With off it passes unchanged, without confirm and pings. br and zstd need the extra `decode`.",
    )
    max_event: Size = Field(
        default=16 << 20,
        description="The largest single event from upstream. A larger one closes the stream with reason "
        "`event_too_large`. The memory of an event is used only while it is unfinished.",
    )
    max_buffer: Size = Field(
        default=1 << 20,
        description="The number of bytes that may wait for one slow client. Above it the proxy stops "
        "reading from upstream until the client catches up. The events of a group (`share`) and of NATS "
        "(`bridge`) cannot wait elsewhere: if so many bytes of them come meanwhile, the client is cut.",
    )
    write_timeout: Duration = Field(
        default=30.0,
        description="How long a client may accept no bytes before its stream is closed. The reason is then "
        "`client_stalled`. It finds clients that have vanished.",
    )

    @property
    def policy(self) -> policy.StreamPolicy:
        """The section as a frozen policy. Call it once for each route.

        The place of the token of `identity` is always a place of `credential`.
        """
        identity = self.identity.policy if self.identity else None
        return policy.StreamPolicy(
            client=self.client,
            credential=_with_identity(self.credential, identity),
            identity=identity,
            refuse_head=self.head is Head.REFUSE,
            confirm=self.confirm.policy if self.confirm else None,
            keepalive=self.keepalive.policy if self.keepalive else None,
            stall=self.stall.policy if self.stall else None,
            early_commit=self.early_commit.policy if self.early_commit else None,
            open_timeout=self.open_timeout,
            reconnect=self.reconnect.policy if self.reconnect else None,
            client_retry=self.reconnect.client_retry if self.reconnect else None,
            share=self.share.policy if self.share else None,
            bridge=_watching(self.bridge.policy, self.stall) if self.bridge else None,
            hold=self.leave.hold,
            publish=self.leave.publish.policy if self.leave.publish else None,
            unname=frozenset(self.rewrite.unname),
            max_age=self.max_age,
            decode=self.decode is Decode.ON,
            max_event=self.max_event,
            max_buffer=self.max_buffer,
            write_timeout=self.write_timeout,
        )


def _watching(bridge: policy.Bridge, stall: Stall | None) -> policy.Bridge:
    watched = stall is not None and stall.sign_of_life is policy.SignOfLife.BRIDGE
    return replace(bridge, watched=watched)


def _with_identity(places: tuple[str, ...], identity: policy.Identity | None) -> tuple[str, ...]:
    return places if identity is None or identity.source in places else (*places, identity.source)
