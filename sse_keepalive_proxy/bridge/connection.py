"""One connection to NATS for all routes with the same servers, and one subscription for each subject.

nats-py connects, subscribes and reconnects. This module owns its connection, and what is logged about it: one
line when it is up, one when it is down. A server that cannot be reached harms no stream. Needs the extra
`nats`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol
from urllib.parse import ParseResult, SplitResult, urlsplit

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import SlowConsumerError

from sse_keepalive_proxy.config.types.bridging import credentials_fault
from sse_keepalive_proxy.config.types.certificates import client_context
from sse_keepalive_proxy.net.tasks import spawn
from sse_keepalive_proxy.stream.policy import NatsServers

__all__ = ["MOST_PENDING", "Connection", "Connections", "Receive", "flushed", "one_line", "unsubscribe"]

logger = logging.getLogger("sse_keepalive_proxy.bridge")

_PORT = 4222
_CONNECT_TIMEOUT = 5  # seconds, as nats-py takes them
_RECONNECT_WAIT = 1
_PING_INTERVAL = 10
_FLUSH_TIMEOUT = 2
_LAST_WORDS = 0.5
_ENDS = 2.0
MOST_PENDING = 64 << 20
"""Bytes of messages of one subject that wait to be handled. More are dropped by nats-py, which says so."""

_REFUSED = re.compile(r'permissions violation for publish to "([^"]+)"')
_DENIED = re.compile(r'permissions violation for subscription to "([^"]+)"')
"""As nats-py says it: all in lower case, also the subject."""

_QUIET = 60.0
"""Seconds between two lines about lost messages."""

_SLICE = 0.005
"""Seconds: messages of a burst are handled for so long, then the event loop runs."""

Receive = Callable[[bytes, int], asyncio.Event | None]
"""Handles the payload of a message, and its position in a stream, 0 without one. Returns what is set when the
next message may come, None for at once. Raises nothing.
"""


class Reader(Protocol):
    """What reads with a connection, beside the subscriptions."""

    def up(self, client: Client) -> None:
        """Read with `client`, which is connected."""

    def down(self) -> None:
        """Do not read: there is no connection."""


class Connection:
    """A connection to `servers` while any subject has a receiver, or anything reads.

    Without a stream there are no positions: `position`, `begun`, `history`, and nothing can be behind.
    """

    position: int | None = None
    begun = history = 0
    behind_since: float | None = None

    def __init__(self, servers: NatsServers) -> None:
        self._servers = servers
        self._loop = asyncio.get_running_loop()
        self._receivers: dict[str, list[Receive]] = {}
        self._readers: list[Reader] = []
        self._subscriptions: dict[str, Subscription] = {}
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._subscribing: set[asyncio.Task[None]] = set()
        self._publishing: set[asyncio.Task[str | None]] = set()
        self._refused: dict[str, float] = {}  # the subjects on which nothing may be published, and since when
        self.refused: set[str] = set()
        """The subjects on which the server sends nothing: it does not permit to subscribe to them."""
        self._closed = asyncio.Event()
        self._said: str | None = None
        self._overrun_said_at = -_QUIET
        self.lost = 0
        """The messages that were lost because they came faster than they were handled."""
        self._slice_began = 0.0
        self.connected_since: float | None = None
        """The time since which every message has been received, None while there is no connection."""
        self.changed_at = self._loop.time()
        """The time at which the connection was made, or lost."""

    @property
    def is_used(self) -> bool:
        """Whether any subject has a receiver, or anything reads."""
        return bool(self._receivers or self._readers)

    def receive(self, subject: str, receive: Receive) -> None:
        """Call `receive` with each message on `subject`, from now on."""
        receivers = self._receivers.setdefault(subject, [])
        receivers.append(receive)
        if self._task is None:
            self._task = spawn(self._run())
        elif len(receivers) == 1 and self._client is not None:
            self._later(self._subscribe(self._client, subject))

    def ignore(self, subject: str, receive: Receive) -> None:
        """Call `receive` no more."""
        receivers = self._receivers[subject]
        receivers.remove(receive)
        if not receivers:
            del self._receivers[subject]
            self.refused.discard(subject)
            subscription = self._subscriptions.pop(subject, None)
            if subscription is not None and self.is_used:
                self._later(unsubscribe(subscription))

    def attach(self, reader: Reader) -> None:
        """Tell `reader` when there is a connection, and when it is lost."""
        self._readers.append(reader)
        if self._task is None:
            self._task = spawn(self._run())
        elif self.connected_since is not None and self._client is not None:
            reader.up(self._client)

    def detach(self, reader: Reader) -> None:
        """Tell `reader` no more."""
        self._readers.remove(reader)

    async def give(self, payload: bytes, position: int, receivers: Iterable[Receive]) -> None:
        """Give a message to `receivers`. Return when the next one may come. The event loop runs, if messages
        have been handled for long.
        """
        busy = [receive(payload, position) for receive in tuple(receivers)]
        for each in busy:
            if each is not None:
                await each.wait()
        if self._loop.time() >= self._slice_began + _SLICE:
            await asyncio.sleep(0)
            self._slice_began = self._loop.time()

    @property
    def server(self) -> str:
        """The server of the connection, or those that are tried: without credentials."""
        client = self._client
        if client is not None and client.connected_url is not None:
            return _name(client.connected_url)
        return ", ".join(_name(urlsplit(url)) for url in self._servers.urls)

    @property
    def can_publish(self) -> bool:
        """Whether there is a connection."""
        return self.connected_since is not None

    def publish(self, subject: str, payload: bytes) -> asyncio.Task[str | None]:
        """Publish `payload`. The result is None when the server has it, otherwise why it has not."""
        publishing = spawn(self._publish(subject, payload))
        self._publishing.add(publishing)
        publishing.add_done_callback(self._publishing.discard)
        return publishing

    async def _publish(self, subject: str, payload: bytes) -> str | None:
        client = self._client
        if client is None or not self.can_publish:
            return "there is no connection"
        began = self._loop.time()
        try:
            await client.publish(subject, payload)
            await flushed(client)  # the server says what it refuses before it answers
        except Exception as error:  # noqa: BLE001 (it is logged)
            return one_line(error)
        refused = self._refused.get(subject.lower(), 0.0) >= began
        return f"the server does not permit it on {subject}" if refused else None

    async def close(self) -> None:
        """Close the connection. What is being published has half a second."""
        if self._publishing:
            await asyncio.wait(self._publishing, timeout=_LAST_WORDS)
        for publishing in tuple(self._publishing):
            publishing.cancel()
        task, self._task = self._task, None
        while task is not None and not task.done():
            task.cancel()  # nats-py can lose it (facts.md#nats-py-cancel)
            await asyncio.wait([task], timeout=_ENDS)
        for each in tuple(self._subscribing):
            each.cancel()

    def _later(self, work: Any) -> None:
        task = spawn(work)
        self._subscribing.add(task)
        task.add_done_callback(self._subscribing.discard)

    async def _run(self) -> None:
        """Connect, and connect again whenever nats-py has given up."""
        client: Client | None = None
        try:
            while True:
                self._closed.clear()
                client = Client()
                try:
                    await client.connect(**self._options())
                    self._client = client
                    await self._subscribe_all(client)
                    self._up()
                    await self._closed.wait()
                except Exception as error:  # noqa: BLE001 (it is logged, and tried again)
                    self._down(error)
                self._client = None
                await _close(client)
                await asyncio.sleep(_RECONNECT_WAIT)
        finally:
            self._client = None
            self._gone()
            if client is not None:
                await _close(client)

    def _options(self) -> dict[str, Any]:
        servers = self._servers
        options: dict[str, Any] = {
            "servers": list(servers.urls),
            "name": "sse-keepalive-proxy",
            "connect_timeout": _CONNECT_TIMEOUT,
            "reconnect_time_wait": _RECONNECT_WAIT,
            "max_reconnect_attempts": -1,
            "ping_interval": _PING_INTERVAL,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
        }
        if servers.tls:
            options["tls"] = client_context(servers.ca_file, servers.client_cert)
            if servers.server_name is not None:
                options["tls_hostname"] = servers.server_name
        if servers.credentials_file is not None:
            if (fault := credentials_fault(servers.credentials_file)) is not None:
                raise ConnectionError(f"credentials_file {fault.message}")  # it has changed
            options["user_credentials"] = servers.credentials_file
        if servers.user is not None:
            options["user"], options["password"] = servers.user, servers.password
        return options

    async def _subscribe_all(self, client: Client) -> None:
        self._subscriptions.clear()
        self.refused.clear()
        for subject in list(self._receivers):
            await self._subscribe(client, subject)
        await flushed(client)

    async def _subscribe(self, client: Client, subject: str) -> None:
        if subject in self._subscriptions or subject not in self._receivers:
            return

        async def received(message: Msg) -> None:
            await self.give(message.data, 0, self._receivers.get(subject, ()))

        self._subscriptions[subject] = await client.subscribe(
            subject, cb=received, pending_msgs_limit=-1, pending_bytes_limit=MOST_PENDING
        )

    # What nats-py says.

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, SlowConsumerError):
            if error.sub in self._subscriptions.values():  # a reader reads again what was lost
                self._overrun(error.subject)
        elif self._denies(str(error).lower()):
            pass  # the connection stays: other subjects have it, and what is published
        elif self.connected_since is None:
            self._down(error)
            _abandon_attempt(self._client)
        elif (refused := _REFUSED.search(str(error).lower())) is not None:
            self._refused[refused[1]] = self._loop.time()

    def _denies(self, error: str) -> bool:
        """Note the subject that the server does not permit to subscribe to. Return whether there is one."""
        found = _DENIED.search(error)
        subjects = [each for each in self._receivers if found is not None and each.lower() == found[1]]
        for subject in subjects:
            self.refused.add(subject)
            logger.warning(
                "nats-server does not permit to subscribe to %s: a bridge gets no message of this subject, "
                "and counts as not connected. Grant its user subscribe on %s there, and restart the proxy",
                subject,
                subject,
                extra={"fields": {"server": self.server}},
            )
        return bool(subjects)

    def _overrun(self, subject: str) -> None:
        now = self._loop.time()
        if self.connected_since is not None:
            self.connected_since = now  # messages were lost until now
        self.lost += 1
        if now >= self._overrun_said_at + _QUIET:
            self._overrun_said_at = now
            text = "messages of NATS are lost, because they come faster than they are handled (%d so far)"
            logger.warning(text, self.lost, extra={"fields": {"subject": subject}})

    async def _on_disconnected(self) -> None:
        self.refused.clear()
        if self.connected_since is not None:
            self._down(None)

    async def _on_reconnected(self) -> None:
        self._up()

    async def _on_closed(self) -> None:
        self._closed.set()

    def _up(self) -> None:
        self.connected_since = self.changed_at = self._loop.time()
        self._said = None
        if not self.refused:
            logger.info("connected to NATS", extra={"fields": {"server": self.server}})
        if self._client is not None:
            for reader in self._readers:
                reader.up(self._client)

    def _down(self, error: BaseException | None) -> None:
        self._gone()
        why = "the connection is lost" if error is None else one_line(error)
        self._say(f"no connection to NATS, so the bridge fills nothing until it is back: {why}")

    def _gone(self) -> None:
        if self.connected_since is not None:
            self.connected_since, self.changed_at = None, self._loop.time()
        self.refused.clear()
        for reader in self._readers:
            reader.down()

    def _say(self, text: str) -> None:
        """Log one line until the connection is up again."""
        if self._said is None:
            self._said = text
            logger.warning(text)


def _name(url: ParseResult | SplitResult) -> str:
    host = url.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{url.port or _PORT}"


async def flushed(client: Client) -> None:
    """Wait until the server has everything. A first ping may overtake it (facts.md#nats-py-flush)."""
    for _ in range(2):
        await client.flush(_FLUSH_TIMEOUT)


def _abandon_attempt(client: Client | None) -> None:
    """Close the socket of a failed attempt to connect again (facts.md#nats-py-attempts)."""
    if client is not None and not client.is_connected:
        _close_socket(client)


def _close_socket(client: Client) -> None:
    transport = getattr(client, "_transport", None)  # nats-py has no public name for it
    if transport is not None:
        transport.close()


async def _close(client: Client) -> None:
    try:
        await client.close()
    except Exception as error:  # noqa: BLE001 (it is over)
        logger.debug("NATS was not closed cleanly: %s", error)
    _close_socket(client)  # if nats-py was cancelled while it closed, it does not close again


async def unsubscribe(subscription: Subscription) -> None:
    try:
        await subscription.unsubscribe()
    except nats.errors.Error as error:
        logger.debug("NATS was not unsubscribed from: %s", error)


def one_line(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Connections:
    """The connections of the process, by their servers."""

    def __init__(self) -> None:
        self._connections: dict[NatsServers, Connection] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def to(self, servers: NatsServers) -> Connection:
        """Return the connection to `servers`."""
        known = self._connections.get(servers)
        if known is None:
            known = self._connections[servers] = Connection(servers)
        return known

    def tidy(self) -> None:
        """Close the connections that are not used."""
        for servers, connection in list(self._connections.items()):
            if not connection.is_used:
                del self._connections[servers]
                task = spawn(connection.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all connections."""
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.close()
        if self._closing:
            await asyncio.wait(self._closing)
