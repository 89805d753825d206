"""Messages of a JetStream stream, through restarts of the proxy and lost connections to a real nats-server.

As a program, `python -m tests.integration.test_bridge_durable SECONDS`, the story takes so long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from sse_keepalive_proxy.bridge import durable
from sse_keepalive_proxy.demo.tokens import new_tokens
from tests.support.instance import Instance, config
from tests.support.looping import in_loop, run
from tests.support.nats import nats_server, publisher
from tests.support.programs import free_port
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, RawUpstream, chunk, stream_head
from tests.support.running import on_each_loop, soon

SILENT = [GOT_REQUEST, stream_head()]
TOKENS = new_tokens()
SECONDS = 1.5
BRIDGE = """\
identity: {{verify: upstream}}
reconnect: {{when: always, delay: 20ms}}
share: {{by: claim:user.id, linger: {linger}, replay: {{ids: add}}}}
bridge:
  servers: nats://127.0.0.1:{port}
  mode: {mode}
  grace: {grace}
  subscriber: claim:user.id
  subjects:
    - subject: {subject}
      recipients: to
      keys: [id]
      upstream_keys: [id]
      data: "{{id: id}}"
  durable: {{stream: {stream}}}
"""


class Subject:
    """A stream of its own at a nats-server, with one subject."""

    def __init__(self, port: int, client: Client, name: str) -> None:
        self.port, self.client, self.name = port, client, name

    async def publish(self, *numbers: int, to: int = 7) -> None:
        for number in numbers:
            message = json.dumps({"id": number, "to": to}).encode()
            await self.client.jetstream().publish(f"{self.name}.1", message)

    def config(
        self,
        upstream: RawUpstream | str,
        mode: str = "replace",
        *,
        grace: str = "100ms",
        linger: str = "1m",
        port: int = 0,
    ) -> str:
        values = {"mode": mode, "grace": grace, "linger": linger}
        names = {"subject": f"{self.name}.*", "stream": self.name}
        return config(upstream, BRIDGE.format(port=port or self.port, **values, **names))


def stored(folder: Path) -> tuple[str, ...]:
    return "-js", "-sd", str(folder / "js")


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("nats")
    with nats_server(folder, None, *stored(folder)) as (_, port):
        yield port


@asynccontextmanager
async def subject(port: int) -> AsyncIterator[Subject]:
    name = f"S{random.getrandbits(32):08x}"
    async with publisher(port) as client:
        await client.jetstream().add_stream(StreamConfig(name, subjects=[f"{name}.*"]))
        yield Subject(port, client, name)


@asynccontextmanager
async def proxy(text: str) -> AsyncIterator[Instance]:
    async with Instance(text) as made:
        await made.until(lambda: made.metric("bridge_connected"))
        yield made


async def joined(
    stack: AsyncExitStack, proxy: Instance | ProxyProcess, last: str = "", user: int = 7
) -> RawClient:
    """A client of a user, with the id of its last event."""
    headers = ["Accept: text/event-stream", "Cache-Control: no-cache"]
    client = await stack.enter_async_context(await RawClient.connect(proxy.url))
    client.request(
        f"/events?access_token={TOKENS.issue(user)}", *headers, *([f"Last-Event-ID: {last}"] if last else [])
    )
    await client.wait_for(b"connection_confirmed")
    return client


def event(number: int) -> bytes:
    return chunk(b'data: {"id": %d}\n\n' % number)


def ids(client: RawClient) -> list[int]:
    """The ids of the messages that a client has got, in order."""
    return [json.loads(each.data)["id"] for each in client.events if each.type == "message"]


def last_id(client: RawClient) -> str:
    return client.events[-1].last_event_id


async def has(client: RawClient, *numbers: int) -> None:
    await client.wait_for(lambda each: ids(each) == list(numbers))


async def unheard(proxy: Instance, count: int) -> None:
    """Wait until the proxy has read so many new messages that are for none of its clients."""
    await proxy.until(lambda: proxy.metric("bridge_events_total", outcome="no_subscriber") >= count)


class Cut:
    """A hop in front of a nats-server, whose connections can be cut."""

    def __init__(self, to: int) -> None:
        self._to, self.port = to, free_port()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    def cut(self) -> None:
        """End every connection, and refuse further ones until `open`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._open:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._open |= {writer, back}
        for source, to in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._copy(source, to))
            self._tasks.add(task)

    async def _copy(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                to.write(data)
                await to.drain()
        to.close()


@on_each_loop
@pytest.mark.parametrize("mode", ["fill", "replace"])
async def test_a_client_that_comes_back_after_a_restart_gets_what_it_has_missed(nats: int, mode: str) -> None:
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(subject(nats))
        upstream = await stack.enter_async_context(RawUpstream(SILENT, SILENT))
        text = here.config(upstream, mode)
        async with proxy(text) as before, AsyncExitStack() as clients:
            first = await joined(clients, before)
            await here.publish(1, 2)
            await has(first, 1, 2)
            known = last_id(first)
            assert before.metric("bridge_positions_lost_total") == 0
        await here.publish(3, 4)
        await here.publish(99, to=8)
        async with proxy(text) as after, AsyncExitStack() as clients:
            await here.publish(5)
            await unheard(after, 1)
            again = await joined(clients, after, known)
            await has(again, 3, 4, 5)
            server = await upstream.connection(1)
            await server.send(event(5) + event(6))  # a late copy, and an event that NATS does not have
            await here.publish(7)
            await again.wait_for(lambda each: sorted(ids(each)) == [3, 4, 5, 6, 7])
            assert b"stream_gap" not in again.body
            assert after.metric("replayed_events_total") == 3
            assert b"skp-" not in server.received
            last = last_id(again)
            await again.close()
            await here.publish(8)
            third = await joined(clients, after, last)
            await has(third, 8)


@on_each_loop
async def test_what_upstream_has_delivered_in_an_order_of_its_own_is_not_sent_again_after_a_restart(
    nats: int,
) -> None:
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(subject(nats))
        upstream = await stack.enter_async_context(RawUpstream(SILENT, SILENT, SILENT))
        text = here.config(upstream, "fill", grace="30s")
        async with proxy(text) as before, AsyncExitStack() as clients:
            first = await joined(clients, before)
            server = await upstream.connection()
            await here.publish(1, 2, 3)
            await server.send(event(3))
            await has(first, 3)  # 1 and 2 wait for upstream
            await server.send(event(5))  # before NATS has it
            await has(first, 3, 5)
            known = last_id(first)
        await here.publish(4, 5)
        async with proxy(text) as after, AsyncExitStack() as clients:
            again = await joined(clients, after, known)
            await has(again, 1, 2, 4)
            middle = again.events[-3].last_event_id
            await (await upstream.connection(1)).send(event(6))
            await has(again, 1, 2, 4, 6)
            known = last_id(again)
        async with proxy(text) as after, AsyncExitStack() as clients:
            await here.publish(6, 7)
            await unheard(after, 2)
            third = await joined(clients, after, known)
            await (await upstream.connection(2)).send(event(7))
            await has(third, 7)
            await has(await joined(clients, after, middle), 2, 4, 6, 7)


class Reader:
    """A page of a user that comes back to one proxy after another, and knows its last id."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.last = ""

    def leave(self, client: RawClient) -> None:
        assert b"stream_gap" not in client.body
        self.heard += ids(client)
        self.last = last_id(client) or self.last


@in_loop
async def test_through_restarts_a_page_hears_each_message_once_whoever_delivers_it(nats: int) -> None:
    chance, page, rounds, published = random.Random(7), Reader(), 6, 0
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(subject(nats))
        upstream = await stack.enter_async_context(RawUpstream(*[SILENT] * rounds))
        text = here.config(upstream, "fill", grace="150ms")
        for number in range(rounds):
            async with proxy(text) as made, AsyncExitStack() as clients:
                client = await joined(clients, made, page.last)
                server = await upstream.connection(number)
                for _ in range(10):
                    published += 1
                    first = chance.random() < 0.3  # upstream is faster than NATS, as slow, or loses it
                    if first or chance.random() < 0.4:
                        await server.send(event(published))
                    await here.publish(published)
                    await asyncio.sleep(chance.random() * 0.05)
                page.leave(client)
        async with proxy(text) as made, AsyncExitStack() as clients:
            client = await joined(clients, made, page.last)
            await client.wait_for(lambda each: len(page.heard) + len(ids(each)) >= published)
            page.leave(client)
    assert sorted(page.heard) == list(range(1, published + 1))


@on_each_loop
async def test_a_client_moves_between_two_replicas_and_each_group_member_gets_its_own_part(nats: int) -> None:
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(subject(nats))
        upstream = await stack.enter_async_context(RawUpstream(SILENT, SILENT))
        text = here.config(upstream)
        one = await stack.enter_async_context(proxy(text))
        two = await stack.enter_async_context(proxy(text))
        first, second = await joined(stack, one), await joined(stack, two)
        await here.publish(1)
        await has(first, 1)
        await has(second, 1)
        at_one = last_id(first)
        await here.publish(2, 3)
        await has(second, 1, 2, 3)
        moved = await joined(stack, two, at_one)
        await has(moved, 2, 3)
        middle = moved.events[-2].last_event_id
        await here.publish(4)
        await has(moved, 2, 3, 4)
        await has(second, 1, 2, 3, 4)
        back = await joined(stack, one, middle)
        await has(back, 3, 4)
        again = await joined(stack, two, middle)
        await has(again, 3, 4)
        for client in (moved, back, again):
            assert b"stream_gap" not in client.body


@in_loop
async def test_a_position_that_is_too_old_or_does_not_exist_is_a_gap(
    nats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(subject(nats))
        upstream = await stack.enter_async_context(RawUpstream(SILENT))
        await here.publish(1, 2)
        await asyncio.sleep(0.01)
        now = datetime.now(UTC) + timedelta(minutes=1)  # when the proxy begins to read
        monkeypatch.setattr(durable, "datetime", SimpleNamespace(now=lambda _: now))
        await asyncio.sleep(0.01)
        await here.publish(3)
        after = await stack.enter_async_context(proxy(here.config(upstream, linger="1m")))
        await has(await joined(stack, after, "skp-00000000-1-2"), 3)
        for position, reason in ((1, b"too_old"), (4711, b"unknown")):
            client = await joined(stack, after, f"skp-00000000-1-{position}")
            await client.wait_for(b"stream_gap")
            assert reason in client.body
            assert ids(client) == []


@on_each_loop
async def test_a_position_leads_only_to_messages_for_the_user_of_the_request(nats: int) -> None:
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(subject(nats))
        upstream = await stack.enter_async_context(RawUpstream(SILENT))
        await here.publish(1, 2)
        await here.publish(3, to=8)
        made = await stack.enter_async_context(proxy(here.config(upstream)))
        await has(await joined(stack, made, "skp-00000000-1-0", user=8), 3)
        await has(await joined(stack, made, "skp-00000000-1-1"), 2)


@in_loop
async def test_what_is_published_while_the_connection_is_cut_is_filled_once_and_is_no_gap(nats: int) -> None:
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(subject(nats))
        hop = await stack.enter_async_context(Cut(nats))
        upstream = await stack.enter_async_context(RawUpstream(SILENT, [GOT_REQUEST], SILENT))
        made = await stack.enter_async_context(proxy(here.config(upstream, "fill", port=hop.port)))
        client = await joined(stack, made)
        await here.publish(1)
        await has(client, 1)
        hop.cut()
        await made.until(lambda: not made.metric("bridge_connected"))
        server = await upstream.connection()
        await server.send(event(3))  # upstream has its own connection to NATS, and loses some
        await has(client, 1, 3)
        server.close()  # upstream is away, too
        second = await upstream.connection(1)
        await here.publish(2, 3, 4)
        await hop.open()
        await has(client, 1, 3, 2, 4)
        second.close()
        await made.until(lambda: made.metric("upstream_reconnects_total", result="reopened") == 1)
        await here.publish(5)
        await has(client, 1, 3, 2, 4, 5)
        assert b"stream_recovered" not in client.body
        assert made.metric("bridge_events_total", outcome="filled") == 4
        assert made.metric("bridge_events_total", outcome="delivered") == 1


@in_loop
async def test_a_lost_position_is_a_gap_of_upstream_again(nats: int) -> None:
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(subject(nats))
        hop = await stack.enter_async_context(Cut(nats))
        upstream = await stack.enter_async_context(RawUpstream(SILENT, [GOT_REQUEST], SILENT))
        made = await stack.enter_async_context(proxy(here.config(upstream, port=hop.port)))
        client = await joined(stack, made)
        await here.publish(1)
        await has(client, 1)
        (await upstream.connection()).close()
        second = await upstream.connection(1)
        hop.cut()
        await made.until(lambda: not made.metric("bridge_connected"))
        await here.publish(2, 3)
        await here.client.jsm().purge_stream(here.name, keep=1)
        await hop.open()
        await has(client, 1, 3)
        second.close()
        await client.wait_for(b"stream_recovered")
        assert made.metric("bridge_positions_lost_total") == 1
        back = await joined(stack, made, client.events[0].last_event_id or "skp-00000000-1-1")
        await back.wait_for(b"stream_gap")


class Page:
    """A page of a user: it comes back with the id of its last event whenever its stream ends."""

    def __init__(self, user: int, seed: int) -> None:
        self.user, self.heard, self.gaps, self.openings = user, list[int](), 0, 0
        self.confirmed = False
        self._random, self._last = random.Random(seed), ""

    async def live(self, ports: list[int]) -> None:
        headers = ["Accept: text/event-stream", "Cache-Control: no-cache"]
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with await RawClient.connect(port=self._random.choice(ports)) as client:
                    last = [f"Last-Event-ID: {self._last}"] if self._last else []
                    client.request(f"/events?access_token={TOKENS.issue(self.user)}", *headers, *last)
                    self.openings += 1
                    seen = 0
                    while client.ending is None or seen < len(client.events):
                        for each in client.events[seen:]:
                            seen += 1
                            self._last = each.last_event_id or self._last
                            if each.type == "message":
                                self.heard.append(json.loads(each.data)["id"])
                            self.gaps += each.type == "stream_gap"
                            self.confirmed = True
                        if self._last and self._random.random() < 0.003:
                            break  # the network of the page has changed
                        await asyncio.sleep(0.02)
            await asyncio.sleep(self._random.random() * 0.2)


async def story(folder: Path, seconds: float, mode: str, users: int = 10) -> list[Page]:
    """Publish for so long to users with two pages each, while the proxy, its connection to NATS and
    nats-server are killed. Return the pages, which have heard everything once and in order.
    """
    chance, nats_port, port = random.Random(17), free_port(), free_port()
    async with AsyncExitStack() as stack:
        server = stack.enter_context(contextlib.ExitStack())
        server.enter_context(nats_server(folder, nats_port, *stored(folder)))
        upstream = await stack.enter_async_context(RawUpstream(*[SILENT] * 10_000))
        hop = await stack.enter_async_context(Cut(nats_port))
        async with subject(nats_port) as here:
            pass
        text = here.config(upstream, mode, port=hop.port)
        proxies = stack.enter_context(contextlib.ExitStack())

        def start() -> ProxyProcess:
            listen = ["--listen", f"127.0.0.1:{port}"]
            return proxies.enter_context(running_proxy(folder, config=text, arguments=listen))

        made = await asyncio.to_thread(start)
        pages = [Page(user, 2 * user + tab) for user in range(users) for tab in range(2)]
        lives = [asyncio.create_task(page.live([port])) for page in pages]
        loop, sent = asyncio.get_running_loop(), dict[int, list[int]]()
        number = 0

        async def say(client: Client) -> None:
            nonlocal number
            number += 1
            user = number % users
            await Subject(0, client, here.name).publish(number, to=user)
            sent.setdefault(user, []).append(number)

        await soon(lambda: all(page.confirmed for page in pages), within=30)
        async with publisher(nats_port) as client:
            for _ in range(users):
                await say(client)
        await soon(lambda: all(page.heard for page in pages), within=30)
        until, turn = loop.time() + seconds, 0
        while loop.time() < until:
            async with publisher(nats_port) as client:
                for _ in range(50):
                    await say(client)
                    await asyncio.sleep(0.005)
                killed = ("proxy", "connection", "nats")[turn % 3]
                turn += 1
                if killed == "proxy":
                    made.program.process.kill()
                elif killed == "connection":
                    hop.cut()
                for _ in range(chance.randrange(30)):
                    await say(client)
                if killed == "proxy":
                    await asyncio.to_thread(proxies.close)
                    made = await asyncio.to_thread(start)
                elif killed == "connection":
                    await hop.open()
            if killed == "nats":
                server.close()
                server.enter_context(nats_server(folder, nats_port, *stored(folder)))
        with contextlib.suppress(AssertionError):
            await soon(lambda: all(len(page.heard) >= len(sent[page.user]) for page in pages), within=40)
        for task in lives:
            task.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
        for page in pages:
            assert page.heard == sent[page.user], (page.user, page.heard, sent[page.user])
        return pages


def test_everything_is_killed_in_turn_and_every_page_hears_every_message_once(tmp_path: Path) -> None:
    async def short() -> None:
        await story(tmp_path, SECONDS, "fill")

    run(short(), within=150)


if __name__ == "__main__":
    for way in ("fill", "replace"):
        with tempfile.TemporaryDirectory() as directory:
            seen = asyncio.run(story(Path(directory), float(sys.argv[1]), way))
        total = sum(len(page.heard) for page in seen)
        openings, gaps = sum(page.openings for page in seen), sum(page.gaps for page in seen)
        sys.stdout.write(f"{way}: {total} messages heard, {openings} openings, {gaps} gaps\n")
