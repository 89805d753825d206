"""Read a JetStream stream from a position (behaviour.md#durable).

nats-py connects and subscribes. This module makes a consumer without acknowledgements at the position, and
another one whenever the messages stop or one is missing: after a lost connection, a restart of nats-server,
or the deletion of the consumer. Needs the extra `nats`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from sse_keepalive_proxy.bridge.connection import MOST_PENDING, Connection, Receive, one_line, unsubscribe
from sse_keepalive_proxy.net.tasks import spawn

__all__ = ["Numbers", "Reader", "matches"]

logger = logging.getLogger("sse_keepalive_proxy.bridge")

_HEARTBEAT = 1.0
_SILENT = 3  # heartbeats that do not come
_ANSWER = 5.0  # seconds for an answer of JetStream

_STREAM_NOT_FOUND = 10059
_FILTER_REFUSED = frozenset({10093, 10138})
"""Subjects that the stream does not have, or that overlap. Then the consumer gets all messages."""


class Numbers(Protocol):
    """The metrics of the route. `bridge_stream_missing`: 1 while the stream does not exist."""

    bridge_stream_missing: int
    bridge_positions_lost: int


class _Refused(Exception):
    """JetStream has answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error.get("description", "an error without a description"))
        self.code = error.get("err_code")


class Reader:
    """The messages of `stream`, each once and in its order, for the receivers of their subjects.

    `back`: the seconds before its beginning from which it reads messages; None: it reads new ones only.
    `position`: the place in the stream up to which every message has been handled, None before the first
    one is known. `begun`: the position after which it has read every message. `history`: messages up to this
    position were in the stream when it began. `connected_since`: the time since which every message has been
    received or will be, None while it does not read. `changed_at`: when it began to read, or stopped.
    `behind_since`: the time from which on messages may not have been read yet, None if all have been.
    `heartbeat`: the seconds between two signs of life of an idle consumer, and until another attempt. No
    message is `lost`: it is read again. No subject is `refused`: the stream has them.
    """

    lost = 0
    refused: frozenset[str] = frozenset()

    def __init__(
        self,
        connection: Connection,
        stream: str,
        back: float | None,
        metrics: Numbers,
        heartbeat: float = _HEARTBEAT,
    ) -> None:
        self._heartbeat = heartbeat
        self._connection, self._stream, self._metrics = connection, stream, metrics
        self._loop = asyncio.get_running_loop()
        self._from = None if back is None else datetime.now(UTC) - timedelta(seconds=back)
        self._receivers: list[tuple[str, Receive]] = []
        self._task: asyncio.Task[None] | None = None
        self._created: str | None = None  # which stream of this name it is
        self._complete_since: float | None = None
        self._said: str | None = None
        self.position: int | None = None
        self.begun = self.history = 0
        self.connected_since: float | None = None
        self.changed_at = self._loop.time()
        self.behind_since: float | None = self.changed_at

    def receive(self, subject: str, receive: Receive) -> None:
        """Call `receive` with each message on `subject`."""
        self._receivers.append((subject, receive))
        if len(self._receivers) == 1:
            self._connection.attach(self)

    def ignore(self, subject: str, receive: Receive) -> None:
        """Call `receive` no more."""
        self._receivers.remove((subject, receive))
        if not self._receivers:
            self._connection.detach(self)
            self.down()

    @property
    def server(self) -> str:
        """The server of the connection, or those that are tried: without credentials."""
        return self._connection.server

    @property
    def can_publish(self) -> bool:
        """Whether there is a connection."""
        return self._connection.can_publish

    def publish(self, subject: str, payload: bytes) -> asyncio.Task[str | None]:
        """Publish `payload` as `Connection.publish` does."""
        return self._connection.publish(subject, payload)

    # The connection.

    def up(self, client: Client) -> None:
        """Read with `client`, which is connected."""
        self.down()
        self._task = spawn(self._run(client))

    def down(self) -> None:
        """Do not read: there is no connection."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._stopped()

    def _stopped(self) -> None:
        if self.connected_since is not None:
            self.connected_since, self.changed_at = None, self._loop.time()
        if self.behind_since is None:
            self.behind_since = self._loop.time()

    async def _run(self, client: Client) -> None:
        task = asyncio.current_task()
        while self._task is task:  # nats-py may turn a cancellation into an error
            try:
                await self._read(client)
            except Exception as error:  # noqa: BLE001 (it is logged, and tried again)
                if self._task is task:
                    self._failed(error)
            if self._task is task:
                self._stopped()
                await asyncio.sleep(self._heartbeat)

    def _failed(self, error: Exception) -> None:
        missing = isinstance(error, _Refused) and error.code == _STREAM_NOT_FOUND
        if missing:
            self._metrics.bridge_stream_missing = 1
            if self.position is None:
                self.position = 0  # all messages of a stream that is made later are new
        why = "JetStream is not there" if isinstance(error, NoRespondersError) else one_line(error)
        text = "the stream does not exist" if missing else f"the stream cannot be read: {why}"
        self._say(f"{text}. The bridge fills nothing until it can be read")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            logger.warning(text, extra={"fields": {"stream": self._stream}})

    # One consumer.

    async def _read(self, client: Client) -> None:
        """Read from the position on, until messages stop or one is missing."""
        await self._find_position(client)
        consumer = _Consumer(self, client)
        inbox = client.new_inbox()
        subscription = await client.subscribe(
            inbox, cb=consumer.received, pending_msgs_limit=-1, pending_bytes_limit=MOST_PENDING
        )
        try:
            made = await self._make_consumer(client, inbox)
            if not consumer.read and not made["delivered"]["consumer_seq"]:
                self._at(made["delivered"]["stream_seq"])
            self._reads(caught_up=not made["num_pending"])
            silent = _SILENT * self._heartbeat
            while not consumer.broken.is_set() and self._loop.time() < consumer.heard + silent:
                await consumer.wait(self._heartbeat)
        finally:
            consumer.broken.set()
            await unsubscribe(subscription)

    async def _find_position(self, client: Client) -> None:
        """Find out whether the stream still has what follows the position."""
        info = await _ask(client, f"STREAM.INFO.{self._stream}", {})
        state, known, self._created = info["state"], self._created, info["created"]
        first, last, position = state["first_seq"], state["last_seq"], self.position
        if position is None:
            self.history = last
            if self._from is None:
                self._begin(last)
        elif (known is not None and known != self._created) or last < position:
            self._lost("the stream was made again, so it is read from its first message")
            self.history = 0
            self._begin(0)
        elif known is not None and first > position + 1:
            self._lost("the stream has lost messages that were not read yet")
            self._begin(first - 1)

    def _begin(self, position: int) -> None:
        self.position = self.begun = position

    def _at(self, position: int) -> None:
        """Note that every message up to `position` has been handled."""
        if self.position is None:
            self._begin(position)
        elif position > self.position:
            self.position = position

    def _lost(self, why: str) -> None:
        self._metrics.bridge_positions_lost += 1
        self._complete_since = None
        logger.warning(why, extra={"fields": {"stream": self._stream, "position": self.position}})

    def _reads(self, *, caught_up: bool) -> None:
        self._said, self._metrics.bridge_stream_missing = None, 0
        if self._complete_since is None:
            self._complete_since = self._loop.time()
        if self.connected_since is None:
            self.changed_at = self._loop.time()
        self.connected_since = self._complete_since
        if caught_up:
            self.behind_since = None

    async def _make_consumer(self, client: Client, inbox: str) -> Any:
        subjects = list(dict.fromkeys(subject for subject, _ in self._receivers))
        config: dict[str, Any] = {
            "deliver_subject": inbox,
            "ack_policy": "none",
            "max_deliver": 1,
            "idle_heartbeat": int(self._heartbeat * 1e9),
            "flow_control": True,
            "mem_storage": True,
            "num_replicas": 1,
        }
        if self.position is not None:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self.position + 1}
        elif self._from is not None:
            config |= {"deliver_policy": "by_start_time", "opt_start_time": self._from.isoformat()}
        # nats-server before 2.10 ignores `filter_subjects`, and then sends all messages.
        wanted = {"filter_subject": subjects[0]} if len(subjects) == 1 else {"filter_subjects": subjects}
        try:
            return await self._create(client, config | wanted)
        except _Refused as error:
            if error.code not in _FILTER_REFUSED:
                raise
        return await self._create(client, config)

    async def _create(self, client: Client, config: dict[str, Any]) -> Any:
        value = {"stream_name": self._stream, "config": config}
        return await _ask(client, f"CONSUMER.CREATE.{self._stream}", value)

    # Messages.

    async def handle(self, message: Msg, position: int) -> None:
        """Handle a message of the stream."""
        if self.position is None:
            self._begin(position - 1)
        self.position = position
        receivers = [each for subject, each in self._receivers if matches(subject, message.subject)]
        await self._connection.give(message.data, position, receivers)

    def caught_up(self, position: int = 0) -> None:
        """Note that the stream has no further messages, and that there are none for it up to `position`."""
        self._at(position)
        self.behind_since = None


class _Consumer:
    """What one consumer sends. `broken` is set when a message is missing. `read`: its messages so far."""

    def __init__(self, reader: Reader, client: Client) -> None:
        self._reader, self._client, self._loop = reader, client, asyncio.get_running_loop()
        self.broken, self.heard, self.read = asyncio.Event(), self._loop.time(), 0

    async def wait(self, seconds: float) -> None:
        """Wait so long, or until it is broken."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.broken.wait(), seconds)

    async def received(self, message: Msg) -> None:
        """Take a message of the stream, or a sign of life of the consumer."""
        if self.broken.is_set():
            return
        self.heard = self._loop.time()
        if message.reply.startswith("$JS.ACK."):
            await self._message(message)
            return
        headers = message.headers or {}
        if reply := message.reply or headers.get("Nats-Consumer-Stalled"):
            await self._client.publish(reply)  # flow control: everything before it is handled
        last = headers.get("Nats-Last-Consumer")
        if headers.get("Status") != "100" or (last is not None and int(last) != self.read):
            self.broken.set()
        elif last is not None:
            self._reader.caught_up(int(headers.get("Nats-Last-Stream", 0)))

    async def _message(self, message: Msg) -> None:
        about = message.metadata
        if about.sequence.consumer != self.read + 1:
            self.broken.set()  # it is read again by the next consumer
            return
        self.read += 1
        await self._reader.handle(message, about.sequence.stream)
        if not about.num_pending:
            self._reader.caught_up()


async def _ask(client: Client, what: str, value: dict[str, Any]) -> Any:
    """Return JetStream's answer. Raises `_Refused`, or an error of nats-py."""
    answer = await client.request(f"$JS.API.{what}", json.dumps(value).encode(), timeout=_ANSWER)
    found = json.loads(answer.data)
    if "error" in found:
        raise _Refused(found["error"])
    return found


def matches(pattern: str, subject: str) -> bool:
    """Whether messages on `subject` are among those of `pattern`, which may have wildcards."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(
        each in ("*", token) for each, token in zip(wanted, tokens, strict=True)
    )
