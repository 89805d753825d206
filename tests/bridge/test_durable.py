"""A reader of a JetStream stream, with a real nats-server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerInfo, StreamConfig
from nats.js.errors import NotFoundError

from sse_keepalive_proxy.bridge import durable
from sse_keepalive_proxy.bridge.connection import Connections
from sse_keepalive_proxy.bridge.durable import Reader, matches
from sse_keepalive_proxy.stream.policy import NatsServers
from tests.support.looping import in_loop, on_each_loop, soon
from tests.support.nats import nats_server, publisher
from tests.support.programs import free_port


class Numbers:
    bridge_stream_missing = bridge_positions_lost = 0


class Reading:
    """A reader of the stream S at `port`, and the messages that it has read with their positions.

    Its heartbeat is short. If the machine stands still for three of them, it makes another consumer.
    """

    def __init__(self, port: int, *subjects: str, back: float | None = None) -> None:
        self.numbers, self.connections = Numbers(), Connections()
        connection = self.connections.to(NatsServers((f"nats://127.0.0.1:{port}",)))
        self.reader = Reader(connection, "S", back, self.numbers, heartbeat=0.1)
        self.read: list[int] = []
        self.positions: list[int] = []
        for subject in subjects or ("chat.*",):
            self.reader.receive(subject, self._receive)

    def _receive(self, payload: bytes, position: int) -> None:
        self.read.append(int(payload))
        self.positions.append(position)

    async def until(self, *numbers: int) -> None:
        await soon(lambda: self.read == list(numbers))

    async def current(self) -> None:
        await soon(lambda: self.reader.behind_since is None)

    async def since(self) -> float:
        """The time since which it reads."""
        await soon(lambda: self.reader.connected_since is not None)
        assert self.reader.connected_since is not None
        return self.reader.connected_since


@asynccontextmanager
async def reading(port: int, *subjects: str, back: float | None = None) -> AsyncIterator[Reading]:
    made = Reading(port, *subjects, back=back)
    try:
        yield made
    finally:
        await made.connections.close()


async def make_stream(client: Client, *subjects: str, **more: Any) -> None:
    await client.jetstream().add_stream(StreamConfig("S", subjects=list(subjects or ("chat.*",)), **more))


async def publish(client: Client, *numbers: int, subject: str = "chat.1") -> None:
    for number in numbers:
        await client.jetstream().publish(subject, b"%d" % number)


async def consumers(client: Client) -> list[ConsumerInfo]:
    """The consumers, the one that reads last."""
    return sorted(await client.jsm().consumers_info("S"), key=lambda each: each.created)


async def delete_consumers(client: Client) -> None:
    for each in await consumers(client):
        with suppress(NotFoundError):  # an older one, which is gone by now
            await client.jsm().delete_consumer("S", each.name)


def stored(folder: Path) -> tuple[str, ...]:
    return "-js", "-sd", str(folder / "js")


@asynccontextmanager
async def made_stream(folder: Path, *subjects: str, **more: Any) -> AsyncIterator[tuple[int, Client]]:
    """The port of a server that has the stream, and a client that publishes there."""
    with nats_server(folder, None, *stored(folder)) as (_, port):
        async with publisher(port) as client:
            await make_stream(client, *subjects, **more)
            yield port, client


@on_each_loop
async def test_new_messages_are_read_once_and_in_their_order(tmp_path: Path) -> None:
    async with made_stream(tmp_path, "chat.*", "other") as (port, client):
        await publish(client, 1, 2)
        async with reading(port) as it:
            await it.current()
            await publish(client, 3)
            await publish(client, 99, subject="other")
            await publish(client, *range(4, 40))
            await it.until(*range(3, 40))
            assert it.positions == [3, *range(5, 41)]


@in_loop
async def test_older_messages_are_read_from_the_given_time_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with made_stream(tmp_path) as (port, client):
        await publish(client, 1, 2)
        await asyncio.sleep(0.01)
        now = datetime.now(UTC) + timedelta(seconds=30)  # of the readers
        monkeypatch.setattr(durable, "datetime", SimpleNamespace(now=lambda _: now))
        await asyncio.sleep(0.01)
        await publish(client, 3)
        async with reading(port, back=30) as late, reading(port, back=60) as early:
            await late.until(3)
            await early.until(1, 2, 3)
            await late.current()
            assert (late.reader.begun, early.reader.begun) == (2, 0)
            assert late.reader.history == early.reader.history == 3
            await publish(client, 4)
            await late.until(3, 4)


@in_loop
async def test_several_subjects_and_messages_that_fit_more_than_one(tmp_path: Path) -> None:
    async with (
        made_stream(tmp_path, "chat.>", "room", "other") as (port, client),
        reading(port, "chat.*", "room", "chat.>") as it,
    ):
        await it.current()
        await publish(client, 1, subject="room")
        await publish(client, 2, subject="other")
        await publish(client, 3, subject="chat.a.b")
        await publish(client, 4, subject="chat.a")
        await it.until(1, 3, 4, 4)


@in_loop
async def test_a_subject_that_the_stream_does_not_have_is_no_fault(tmp_path: Path) -> None:
    async with made_stream(tmp_path) as (port, client), reading(port, "elsewhere") as it:
        await it.current()
        await publish(client, 1)
        await soon(lambda: it.reader.position == 1)
        assert it.read == []


@in_loop
async def test_a_server_that_is_killed_costs_no_message(tmp_path: Path) -> None:
    port = free_port()
    with nats_server(tmp_path, port, *stored(tmp_path)) as (server, _):
        async with reading(port) as it:
            async with publisher(port) as client:
                await make_stream(client)
                await it.current()
                await publish(client, 1)
                await it.until(1)
                since = await it.since()
                server.process.kill()
                await soon(lambda: it.reader.connected_since is None)
            with nats_server(tmp_path, port, *stored(tmp_path)):
                async with publisher(port) as client:
                    await publish(client, 2, 3)
                    await it.until(1, 2, 3)
                    await it.current()
                    await publish(client, 4)
                    await it.until(1, 2, 3, 4)
                    assert await it.since() == since
                    assert it.numbers.bridge_positions_lost == 0


@in_loop
async def test_a_consumer_that_is_deleted_is_made_again_where_it_was(tmp_path: Path) -> None:
    async with made_stream(tmp_path) as (port, client), reading(port) as it:
        await it.current()
        await publish(client, 1)
        await it.until(1)
        await delete_consumers(client)
        await publish(client, 2, 3)
        await it.until(1, 2, 3)


@in_loop
async def test_a_stream_that_does_not_exist_yet_is_read_from_its_first_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sse_keepalive_proxy.bridge")
    with nats_server(tmp_path, None, *stored(tmp_path)) as (_, port):
        async with publisher(port) as client, reading(port) as it:
            await soon(lambda: it.numbers.bridge_stream_missing == 1)
            await asyncio.sleep(0.2)  # a second attempt
            await make_stream(client)
            await publish(client, 1, 2)
            await it.until(1, 2)
            await soon(lambda: it.numbers.bridge_stream_missing == 0)
            assert it.reader.history == 0
    assert [each.getMessage() for each in caplog.records] == [
        "the stream does not exist. The bridge fills nothing until it can be read"
    ]


@in_loop
async def test_a_stream_that_was_made_again_is_read_from_its_first_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sse_keepalive_proxy.bridge")
    async with made_stream(tmp_path) as (port, client), reading(port) as it:
        await it.current()
        await publish(client, 1, 2)
        await it.until(1, 2)
        await client.jsm().delete_stream("S")
        await make_stream(client)
        await publish(client, 3, 4, 5)
        await it.until(1, 2, 3, 4, 5)
        assert it.positions == [1, 2, 1, 2, 3]
        assert it.numbers.bridge_positions_lost == 1
    said = [each.getMessage() for each in caplog.records]
    assert said.count("the stream was made again, so it is read from its first message") == 1
    assert len(said) == 1 or "does not exist" in said[0]  # it has looked before it was made again
    assert len(said) <= 2


@in_loop
async def test_messages_that_were_removed_before_they_were_read_are_counted(tmp_path: Path) -> None:
    port = free_port()
    with nats_server(tmp_path, port, *stored(tmp_path)) as (server, _):
        async with reading(port) as it:
            async with publisher(port) as client:
                await make_stream(client)
                await it.current()
                await publish(client, 1)
                await it.until(1)
                since = await it.since()
                server.process.kill()
                await soon(lambda: it.reader.connected_since is None)
            other = free_port()  # the proxy cannot reach it
            with nats_server(tmp_path, other, *stored(tmp_path)):
                async with publisher(other) as client:
                    await publish(client, 2, 3)
                    await client.jsm().purge_stream("S", keep=1)
            with nats_server(tmp_path, port, *stored(tmp_path)):
                await it.until(1, 3)
                assert it.numbers.bridge_positions_lost == 1
                assert it.reader.begun == 2
                await soon(lambda: (it.reader.connected_since or 0) > since)


@in_loop
async def test_a_purged_stream_of_which_everything_was_read_has_lost_nothing(tmp_path: Path) -> None:
    async with made_stream(tmp_path) as (port, client), reading(port) as it:
        await it.current()
        await publish(client, 1, 2)
        await it.until(1, 2)
        await client.jsm().purge_stream("S")
        await delete_consumers(client)
        await publish(client, 3)
        await it.until(1, 2, 3)
        assert it.numbers.bridge_positions_lost == 0


@in_loop
async def test_a_missing_message_is_read_again(tmp_path: Path) -> None:
    async with made_stream(tmp_path) as (port, client), reading(port) as it:
        await it.current()
        await publish(client, 1)
        await it.until(1)
        at = (await consumers(client))[-1]
        forged = f"$JS.ACK.S.{at.name}.1.9.3.1700000000000000000.0"  # the third message, without a second
        await client.publish(at.config.deliver_subject or "", b"9", reply=forged)
        await publish(client, 2, 3)
        await it.until(1, 2, 3)
        assert it.positions == [1, 2, 3]


@in_loop
async def test_a_server_without_jetstream_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sse_keepalive_proxy.bridge")
    with nats_server(tmp_path) as (_, port):
        async with reading(port) as it:
            await soon(lambda: bool(caplog.records))
            await asyncio.sleep(0.2)  # a second attempt
            assert it.reader.connected_since is None
    (line,) = [each.getMessage() for each in caplog.records]
    assert "JetStream is not there" in line


@pytest.mark.parametrize(
    ("pattern", "subject", "fits"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("*.b", "a.b", True),
        ("a.*.c", "a.b.d", False),
        ("a", "a.b", False),
    ],
)
def test_a_subject_fits_as_nats_says(pattern: str, subject: str, fits: bool) -> None:
    assert matches(pattern, subject) is fits
