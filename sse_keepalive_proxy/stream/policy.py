"""The settings of a route's streams: frozen values, one class for each concern.

The configuration creates them, and all streams of a route share them. They never change: a running stream
keeps its policy (behaviour.md#running-streams-keep-their-policy). A concern that is off is None. Durations
are in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = [
    "Bridge",
    "BridgeFrame",
    "BridgeMode",
    "BridgeSubject",
    "Confirm",
    "ConfirmForm",
    "EarlyCommit",
    "Family",
    "Identity",
    "Keepalive",
    "KeepaliveForm",
    "LeavePublish",
    "NatsServers",
    "OnRefusal",
    "Reconnect",
    "ReconnectWhen",
    "Replay",
    "ReplayIds",
    "Share",
    "SignOfLife",
    "Stall",
    "StallAction",
    "StreamPolicy",
    "Terminator",
    "Verify",
]

_CONFLICT = 409


class Family(StrEnum):
    """Clients that need the same frames. `auto` is decided for each request (`stream.families`)."""

    AUTO = "auto"
    BROWSER = "browser"
    MCP = "mcp"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI_PYTHON = "gemini-python"
    GEMINI = "gemini"
    HTTP = "http"


class ConfirmForm(StrEnum):
    """The form of the confirm, the first bytes for a client. `auto` is decided for each request."""

    AUTO = "auto"
    EVENT = "event"
    COMMENT = "comment"


class KeepaliveForm(StrEnum):
    """The form of a ping: a comment, which an EventSource ignores, or an event for its listeners."""

    COMMENT = "comment"
    EVENT = "event"


class Terminator(StrEnum):
    """How a comment ends. `auto`: a blank line until upstream has sent an id, for the families that fit."""

    AUTO = "auto"
    BLANK = "blank"
    NEWLINE = "newline"


class SignOfLife(StrEnum):
    """The least that upstream must send to count as alive. With `BRIDGE` that is an event, and silence counts
    only if upstream has not delivered a message of NATS.
    """

    BYTES = "bytes"
    COMMENTS = "comments"
    EVENTS = "events"
    BRIDGE = "bridge"


class StallAction(StrEnum):
    """The action when upstream stalls. `observe` only counts it."""

    OBSERVE = "observe"
    NOTIFY = "notify"
    RECONNECT = "reconnect"


class ReconnectWhen(StrEnum):
    """The streams whose lost upstream may be opened again. A request with a body is never repeated.

    `resumable`: a stream of the family `browser` with a last event ID. `always`: every GET.
    """

    RESUMABLE = "resumable"
    ALWAYS = "always"


class OnRefusal(StrEnum):
    """What a 401 or 403 means for a client when upstream is asked again: its end, or only a wait."""

    END = "end"
    KEEP = "keep"


class ReplayIds(StrEnum):
    """The ids of the blocks in a log: upstream's own, or also ids of the proxy where upstream has none."""

    UPSTREAM = "upstream"
    ADD = "add"


class Verify(StrEnum):
    """The proof for a token's claims: its signature, or upstream's acceptance of the request."""

    JWT = "jwt"
    UPSTREAM = "upstream"


class BridgeMode(StrEnum):
    """What the bridge does with a message: deliver it if upstream does not, always, or only count it."""

    FILL = "fill"
    REPLACE = "replace"
    OBSERVE = "observe"


@dataclass(frozen=True, slots=True)
class Confirm:
    """The proxy's first bytes of a stream. `wait`: seconds for which upstream may send the first bytes."""

    form: ConfirmForm = ConfirmForm.AUTO
    event: str = "connection_confirmed"
    data: Mapping[str, Any] = field(
        default_factory=lambda: {
            "type": "connection_confirmed",
            "stream_id": "{stream_id}",
            "timestamp": "{now}",
        }
    )
    padding: int = 0
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The ping, written after `interval` seconds without a byte for the client; an event ping after
    `interval` seconds without an event. `padding`: the least size of a ping, in bytes.
    """

    interval: float = 15.0
    form: KeepaliveForm = KeepaliveForm.COMMENT
    text: str = "ping"
    terminator: Terminator = Terminator.AUTO
    event: str = "ping"
    data: Mapping[str, Any] = field(default_factory=lambda: {"type": "ping", "timestamp": "{now}"})
    report_idle: bool = False
    padding: int = 0


@dataclass(frozen=True, slots=True)
class Stall:
    """When upstream counts as stalled, and what happens then (behaviour.md#pings-never-pretend)."""

    after: float = 60.0
    sign_of_life: SignOfLife = SignOfLife.EVENTS
    ignore_events: frozenset[str] = frozenset()
    ignore_types: frozenset[str] = frozenset()
    action: StallAction = StallAction.OBSERVE
    close_after: float | None = None


@dataclass(frozen=True, slots=True)
class EarlyCommit:
    """Answer 200 if upstream has not answered within `after` seconds. Only for `methods`."""

    after: float
    methods: frozenset[str] = frozenset({"GET"})


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How a lost upstream is opened again.

    `first_within`: seconds of attempts before the client has a status; None: one attempt.
    `delay`: the first ceiling of the random wait before an attempt. It doubles up to `max_delay`.
    `cursors`: the query parameters that carry an event id. `after_end`: also after a clean end; only the
    families of clients decide about it.
    """

    when: ReconnectWhen = ReconnectWhen.RESUMABLE
    first_within: float | None = 8.0
    delay: float = 0.25
    max_delay: float = 15.0
    give_up_after: float = 300.0
    on_status: frozenset[int] = frozenset({409, 429, 500, 502, 503, 504})
    cursors: frozenset[bytes] = frozenset({b"last-event-id", b"lastEventId", b"last_event_id"})
    announce: bool = True
    after_end: bool = True
    on_refusal: OnRefusal = OnRefusal.END

    def retries(self, status: int, *, opened: bool) -> bool:
        """Return whether another attempt may follow `status`. `opened`: upstream had answered this client
        with a stream. Only then can 409 come from that stream, whose loss upstream has not noticed yet.
        """
        return status in self.on_status and (opened or status != _CONFLICT)


@dataclass(frozen=True, slots=True)
class Identity:
    """Where a client's JSON Web Token is, and how its claims are verified.

    `source` is `query:NAME` or `header:name`. `public_key_file` names a PEM public key. `Verify.UPSTREAM`
    uses neither it nor `algorithms`.
    """

    source: str = "query:access_token"
    verify: Verify = Verify.JWT
    public_key_file: str | None = None
    algorithms: tuple[str, ...] = ("EdDSA",)
    audience: str | None = None
    issuer: str | None = None
    close_at_expiry: bool = False


@dataclass(frozen=True, slots=True)
class Replay:
    """The log of a group: its last blocks, at most `events` of them and at most `bytes` together."""

    events: int = 256
    bytes: int = 256 << 10
    ids: ReplayIds = ReplayIds.UPSTREAM


@dataclass(frozen=True, slots=True)
class Share:
    """One upstream stream for a group of clients.

    `claim`: the dotted path of the claim that all tokens of a group have in common; None: all requests of a
    group are byte-identical. `trust`: seconds for which a credential that upstream has accepted joins without
    asking upstream. `linger`: seconds for which a group is kept after its last client has left.
    """

    claim: str | None = None
    trust: float = 30.0
    max_clients: int = 32
    linger: float = 5.0
    replay: Replay | None = None


@dataclass(frozen=True, slots=True)
class NatsServers:
    """One NATS server or cluster, and how the proxy authenticates there. The files are PEM files, except
    `credentials_file`. Equal values share one connection.
    """

    urls: tuple[str, ...]
    tls: bool = False
    ca_file: str | None = None
    server_name: str | None = None
    client_cert: str | None = None
    credentials_file: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class BridgeFrame:
    """One event for the client: its name, and its data as JMESPath."""

    event: str
    data: str


@dataclass(frozen=True, slots=True)
class BridgeSubject:
    """What the messages of a NATS subject mean, as JMESPath. `when` None: every message. `learn`: the name of
    the audience that the recipients are.
    """

    subject: str
    recipients: str
    when: str | None = None
    keys: tuple[str, ...] = ()
    upstream_keys: tuple[str, ...] = ()
    frames: tuple[BridgeFrame, ...] = ()
    learn: str | None = None


@dataclass(frozen=True, slots=True)
class Bridge:
    """The messages of NATS for the streams of a route. `claim`: the dotted path of the claim that says whose
    stream it is. `grace`: the seconds that upstream has to deliver a message. `durable`: the JetStream stream
    that is read; None: the subjects of core NATS. `watched`: whether a stream hears that upstream has not
    delivered a message.
    """

    servers: NatsServers
    claim: str
    subjects: tuple[BridgeSubject, ...]
    mode: BridgeMode = BridgeMode.FILL
    grace: float = 1.0
    durable: str | None = None
    watched: bool = False


@dataclass(frozen=True, slots=True)
class LeavePublish:
    """The JSON, with placeholders, that is published on a NATS subject when the last client of a stream has
    gone.
    """

    subject: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """All settings of a route's `stream` section, with their defaults. `client_retry`: the `retry` for a
    client that comes back by itself, in seconds.
    """

    client: Family = Family.AUTO
    credential: tuple[str, ...] = (
        "query:access_token",
        "header:authorization",
        "header:cookie",
        "header:x-api-key",
        "header:x-goog-api-key",
        "header:api-key",
    )
    identity: Identity | None = None
    refuse_head: bool = False
    confirm: Confirm | None = field(default_factory=Confirm)
    keepalive: Keepalive | None = field(default_factory=Keepalive)
    stall: Stall | None = field(default_factory=Stall)
    early_commit: EarlyCommit | None = None
    open_timeout: float = 300.0
    reconnect: Reconnect | None = field(default_factory=Reconnect)
    client_retry: float | None = None
    share: Share | None = None
    bridge: Bridge | None = None
    hold: float | None = None  # seconds for which upstream stays open after its client has gone
    publish: LeavePublish | None = None
    unname: frozenset[str] = frozenset()
    max_age: float | None = None
    decode: bool = False
    max_event: int = 16 << 20
    max_buffer: int = 1 << 20
    write_timeout: float = 30.0
