"""The incident, as a user of the silent build had it: sign in, open the stream, send a message, and wait for
one's own message to come back, which confirms it. The build gives it to everybody but the sender
(facts.md#notify-server-builds), so it stays "sent" for ever.

A try is the same without the proxy, behind a bridge that only counts, and behind `config.example.yaml` as it
is. Messages go over a real nats-server, as the chat's server publishes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from nats.aio.client import Client

from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.stream.bridging import Outcome
from tests.integration.test_many_streams import descriptors
from tests.support.chat import listening_to_nats, messages, publish
from tests.support.instance import EVENT_SOURCE
from tests.support.looping import run
from tests.support.nats import nats_server, publisher
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.stand_in import example

TRIES = 1000
AT_ONCE = 32  # the server opens one stream after the other
CHATS = {number: (2 * number, 2 * number + 1) for number in range(1, TRIES + 1)}  # the sender, and another
QUESTION, ANSWER = "Can you hear me?", "Yes, I can."


class Incident:
    """The silent build, and a nats-server at `nats_url` on which both sides of each chat are published."""

    def __init__(self, notify: NotifyServer, client: Client, nats_url: str) -> None:
        self.notify, self._client, self.nats_url = notify, client, nats_url
        self._published = 0

    async def confirmed(self, url: str) -> int:
        """Try it once in each chat, at `url`. Return how many senders heard their own message."""
        chats = iter(CHATS)

        async def one_after_the_other() -> int:
            return sum([await self._try(url, chat) for chat in chats])

        return sum(await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE))))

    async def _try(self, url: str, chat: int) -> bool:
        """Whether `onmessage` of the sender hears its own message.

        Each message gets an answer, which every build delivers to the sender, and which takes the same way.
        So once the answer is there, nothing more comes of the message.
        """
        sender, other = CHATS[chat]
        async with await RawClient.connect(url) as page:
            page.request(f"/events?access_token={self.notify.token(sender)}", EVENT_SOURCE)
            assert (await page.wait_head(within=60.0)).status == 200
            await self._say(chat, sender, QUESTION)
            await self._say(chat, other, ANSWER)
            await page.wait_for(ANSWER.encode(), within=60.0)
            assert (QUESTION.encode() in page.body) == (QUESTION in messages(page))
            return QUESTION in messages(page)

    async def _say(self, chat: int, sender: int, content: str) -> None:
        self._published += 1
        await publish(
            self._client, self._published, chat=chat, members=CHATS[chat], sender=sender, content=content
        )
        await self._client.flush()


_M = TypeVar("_M")


@asynccontextmanager
async def started(manager: AbstractContextManager[_M]) -> AsyncIterator[_M]:
    """A program that starts and ends in a thread: meanwhile the other plays go on, and none is timed out."""
    async with AsyncExitStack() as stack:
        value = await asyncio.to_thread(manager.__enter__)
        stack.push_async_callback(asyncio.to_thread, manager.__exit__, None, None, None)
        yield value


@asynccontextmanager
async def incident(folder: Path) -> AsyncIterator[Incident]:
    """One with servers of its own."""
    notify = NotifyServer("silent", chats=CHATS)
    await notify.start()
    try:
        async with (
            started(nats_server(folder)) as (_, port),
            listening_to_nats(port, notify.publish),
            publisher(port) as client,
        ):
            yield Incident(notify, client, f"nats://127.0.0.1:{port}")
    finally:
        await notify.stop()


async def until(proxy: ProxyProcess, name: str, value: int, **labels: str) -> None:
    """Wait until a metric of the stream route has this value, while other things go on."""
    await asyncio.to_thread(proxy.wait_for_metric, f"sse_proxy_{name}", value, 60.0, route="events", **labels)


def outcomes(proxy: ProxyProcess) -> dict[str, float]:
    """How many messages had which outcome at the bridge, without those that none had."""
    name = "sse_proxy_bridge_events_total"
    found = {each.value: proxy.metric(name, route="events", outcome=each) for each in Outcome}
    return {outcome: value for outcome, value in found.items() if value}


async def without(folder: Path) -> None:
    async with incident(folder) as of:
        assert await of.confirmed(of.notify.url) == 0


async def only_counted(folder: Path) -> None:
    """The metrics show what the server does not deliver: the messages. The answers it does."""
    async with incident(folder) as of:
        # A slow machine needs more than the second of the example for the way of an answer over upstream.
        written = example(of.notify.url, servers=of.nats_url, mode="observe", grace="5s")
        async with started(running_proxy(folder, config=written)) as proxy:
            await until(proxy, "bridge_connected", 1)
            assert await of.confirmed(proxy.url) == 0
            await until(proxy, "bridge_events_total", TRIES, outcome="missed")
            assert outcomes(proxy) == {"missed": TRIES, "delivered": TRIES}


async def healed(folder: Path) -> None:
    """The bridge delivers everything. What the server has delivered as well, the answers, is dropped."""
    async with incident(folder) as of:
        written = example(of.notify.url, servers=of.nats_url)
        async with started(running_proxy(folder, config=written)) as proxy:
            await until(proxy, "bridge_connected", 1)
            assert await of.confirmed(proxy.url) == TRIES
            await until(proxy, "bridge_events_total", TRIES, outcome="dropped")
            assert outcomes(proxy) == {"filled": 2 * TRIES, "dropped": TRIES}
            assert proxy.metric("sse_proxy_confirms_sent_total", route="events", form="event") == TRIES
            assert await asyncio.to_thread(proxy.stop) == 0
        assert not of.notify.hub.frozen


def test_of_a_thousand_senders_each_hears_its_own_message_with_the_proxy_and_none_without(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        folders = [tmp_path / str(number) for number in range(3)]
        for folder in folders:
            folder.mkdir()
        async with asyncio.TaskGroup() as group:
            for play, folder in zip((without, only_counted, healed), folders, strict=True):
                group.create_task(play(folder))

    with descriptors(8 * TRIES):
        run(story(), within=600.0)
