"""The section `bridge` of a stream.

Owns its keys, their defaults and their documentation. `policy` of a section is the frozen value that the rest
of the proxy uses. `config.types.bridging` checks the expressions. Durations are in seconds. A concern that is
off is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, Strict, model_validator

from sse_keepalive_proxy.config.types.bridging import (
    ClaimPlace,
    Example,
    Expression,
    NatsUrl,
    Secret,
    StreamName,
    Subject,
    example_faults,
    nats_fault,
)
from sse_keepalive_proxy.config.types.fields import NULL_IS_DEFAULTS, OFF, ONE_OR_MANY, Fault, Section, refuse
from sse_keepalive_proxy.config.types.shapes import FilePath, PlainLine, ServerName, Word
from sse_keepalive_proxy.config.types.units import ShortDuration
from sse_keepalive_proxy.stream import policy

__all__ = ["Bridge", "BridgeFrame", "BridgeSubject", "BridgeTls", "Durable"]

_Mode = Annotated[policy.BridgeMode, Strict(False)]
_Expressions = Annotated[tuple[Expression, ...], Strict(False)]


class BridgeTls(Section):
    """The TLS settings for a NATS server. An empty section trusts the authorities of the system."""

    ca_file: FilePath | None = Field(
        default=None,
        description="The trusted authorities, as a PEM file. They replace those of the system.",
    )
    server_name: ServerName | None = Field(
        default=None,
        description="The name that the certificate must have. If left out, it is the host in `servers`.",
    )
    client_cert: FilePath | None = Field(
        default=None,
        description="The certificate of the proxy and its private key, in one PEM file.",
    )


class BridgeFrame(Section):
    """An event that clients get for a message."""

    event: PlainLine = Field(
        default="",
        description='The name of the event. `onmessage` receives only events without a name (`""`).',
    )
    data: Expression = Field(
        description="The JSON of the event, as JMESPath. With null this event is not sent.",
    )


class BridgeSubject(Section):
    """A subject of NATS, and the meaning of its messages. Expressions are JMESPath for the message's JSON."""

    subject: Subject = Field(
        description="The subject to subscribe to. `*` is one token of it, a final `>` one or more.",
    )
    when: Annotated[Expression | None, OFF] = Field(
        default=None,
        description="Which messages count: if the result is null, the message is ignored. With off every "
        "message counts.",
    )
    recipients: Expression = Field(
        description="Whom the message is for: one value of `subscriber`, or a list of them. The number 7 "
        'equals the text "7".',
    )
    learn: Annotated[Expression | None, OFF] = Field(
        default=None,
        description="The name of the audience that the recipients of this message are, such as the id of a "
        "chat. `members(NAME)` and `peers(MEMBER)` in any `recipients` of this bridge then give its members. "
        "The newest message of an audience counts.",
    )
    keys: _Expressions = Field(
        default=(),
        description="What a message is recognised by. Null, and a list that contains null, match nothing.",
    )
    upstream_keys: _Expressions = Field(
        default=(),
        description="The same values in the JSON of an event of upstream. The first is compared with the "
        "first of `keys`, and so on. One event stands for one message, the oldest that fits.",
    )
    frames: Annotated[tuple[BridgeFrame, ...], Strict(False)] = Field(
        default=(),
        description="The events for a message, sent in one write. If there is only one, `event` and `data` "
        "can stand in the place of this key.",
    )
    event: Annotated[PlainLine | None, OFF] = Field(
        default=None,
        description="The name of the only event. With off it has no name.",
    )
    data: Annotated[Expression | None, OFF] = Field(
        default=None,
        description="The JSON of the only event, as JMESPath, in place of `frames`.",
    )

    example: Annotated[Example | None, OFF] = Field(
        default=None,
        description="A message of this subject. `check` evaluates every expression for it and says what "
        "would be sent.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> BridgeSubject:
        if len(self.keys) != len(self.upstream_keys):
            hint = "the n-th of `keys` is compared with the n-th of `upstream_keys`"
            raise refuse(Fault("must have as many expressions as `keys`", hint, at=("upstream_keys",)))
        if self.frames and (self.data is not None or self.event is not None):
            raise refuse(Fault("cannot stand beside `event` or `data`", "write one of both", at=("frames",)))
        if self.event is not None and self.data is None:
            raise refuse(Fault("needs `data`", "write the JSON of the event as JMESPath", at=("event",)))
        if self.example is not None and nats_fault() is None:
            faults = tuple(example_faults(self.example, self._expressions))
            if faults:
                raise refuse(*faults)
        return self

    @property
    def _expressions(self) -> dict[tuple[str | int, ...], str]:
        """The expressions for a message, by their paths."""
        found: dict[tuple[str | int, ...], str | None] = {
            ("when",): self.when,
            ("recipients",): self.recipients,
            ("learn",): self.learn,
            ("data",): self.data,
        }
        found |= {("keys", index): key for index, key in enumerate(self.keys)}
        found |= {("frames", index, "data"): frame.data for index, frame in enumerate(self.frames)}
        return {at: expression for at, expression in found.items() if expression is not None}

    @property
    def policy(self) -> policy.BridgeSubject:
        """The section as a frozen policy."""
        frames = tuple(policy.BridgeFrame(frame.event, frame.data) for frame in self.frames)
        if self.data is not None:
            frames = (policy.BridgeFrame(self.event or "", self.data),)
        return policy.BridgeSubject(
            self.subject, self.recipients, self.when, self.keys, self.upstream_keys, frames, self.learn
        )


class Durable(Section):
    """A JetStream stream in the place of the subjects of core NATS."""

    stream: StreamName = Field(
        description="The name of the stream. It must have the subjects of `subjects`. The proxy changes "
        "nothing in it.",
    )


class Bridge(Section):
    """The messages of NATS for clients that upstream does not deliver. Needs the extra `nats`."""

    instead: ClassVar[Mapping[str, Fault]] = {
        "url": Fault("is not a key", "write servers: [nats://HOST:4222]"),
        "token": Fault("is not supported", "write user and password, or a credentials_file"),
    }

    servers: Annotated[tuple[NatsUrl, ...], Strict(False), Field(min_length=1), ONE_OR_MANY] = Field(
        description="The NATS server, or the servers of one cluster. All routes with the same servers share "
        "one connection.",
    )
    tls: Annotated[BridgeTls | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=None,
        description="TLS for the connection to NATS. A `tls://` URL has it with every default.",
    )
    credentials_file: Annotated[FilePath | None, OFF] = Field(
        default=None,
        description="The file with the proxy's NATS credentials (`.creds`).",
    )
    user: Annotated[Word | None, OFF] = Field(
        default=None,
        description="The proxy's user name at NATS.",
    )
    password: Annotated[Secret | None, OFF] = Field(
        default=None,
        description="The password of this user. Write it as a variable: `${NATS_PASSWORD}`.",
    )
    mode: _Mode = Field(
        default=policy.BridgeMode.FILL,
        description="What happens with a message: `fill` delivers it if upstream does not, `replace` "
        "delivers it at once and drops upstream's own event, `observe` only counts. With `replace`, an event "
        "of upstream that has keys waits up to `grace` for its message.",
    )
    grace: ShortDuration = Field(
        default=1.0,
        description="How long upstream may take to deliver a message itself.",
    )
    subscriber: ClaimPlace = Field(
        description="The claim that says whose stream it is, as in `claim:user.id`. It needs `identity`.",
    )
    subjects: Annotated[tuple[BridgeSubject, ...], Strict(False), Field(min_length=1)] = Field(
        description="The subjects of NATS and the meaning of their messages.",
    )

    durable: Annotated[Durable | None, OFF] = Field(
        default=None,
        description="Read a JetStream stream, which keeps messages. Then what is published while the proxy "
        "has no connection to NATS is filled later. With `share.replay` and `ids: add` it also fills what is "
        "published while the proxy restarts, up to `share.linger` old.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> Bridge:
        if (self.user is None) != (self.password is None):
            raise refuse(Fault("must be written together with the other one of `user` and `password`"))
        if self.mode is not policy.BridgeMode.OBSERVE:
            faults = [
                Fault("has no event for clients", "write frames, or event and data", at=("subjects", index))
                for index, subject in enumerate(self.subjects)
                if not subject.frames and subject.data is None
            ]
            if faults:
                raise refuse(*faults)
        return self

    @property
    def policy(self) -> policy.Bridge:
        """The section as a frozen policy."""
        tls = self.tls or BridgeTls()
        return policy.Bridge(
            servers=policy.NatsServers(
                urls=self.servers,
                tls=self.tls is not None or any(url.startswith("tls:") for url in self.servers),
                ca_file=tls.ca_file,
                server_name=tls.server_name,
                client_cert=tls.client_cert,
                credentials_file=self.credentials_file,
                user=self.user,
                password=self.password,
            ),
            claim=self.subscriber.removeprefix("claim:"),
            subjects=tuple(subject.policy for subject in self.subjects),
            mode=self.mode,
            grace=self.grace,
            durable=self.durable.stream if self.durable else None,
        )
