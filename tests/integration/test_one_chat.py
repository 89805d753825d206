"""A chat before the stand-in of notify-server, in both builds, with `config.example.yaml` and a real NATS.

Messages come all the time. Tabs, departures, a killed server, an abort and a herd cost none of them. The
suite plays it small. As a program, `python -m` with this module plays the full size.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from nats.aio.client import Client

from tests.integration.test_many_streams import descriptors
from tests.support.chat import messages, publish
from tests.support.instance import EVENT_SOURCE
from tests.support.looping import run
from tests.support.nats import nats_server, publisher
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.stand_in import CHAT, Killable, example

EIGHTEEN_CHARACTERS = "\u4f60\u597d" * 9  # 54 bytes: the fixed build aborts at the 50th


@dataclass(frozen=True, slots=True)
class Size:
    """How much is played. `away`: the seconds for which the server is killed."""

    messages: int
    per_second: float
    leaving: int
    away: float
    herd: int


SMALL = Size(messages=30, per_second=30.0, leaving=10, away=1.0, herd=60)
FULL = Size(messages=200, per_second=10.0, leaving=30, away=5.0, herd=1000)
USERS, TABS = 20, 3


class Chat:
    """One chat of `USERS` users, and those who leave or come as a herd."""

    def __init__(self, server: Killable, proxy: ProxyProcess, client: Client, size: Size) -> None:
        self._server, self._proxy, self._client, self._size = server, proxy, client, size
        self._stack = AsyncExitStack()
        self.pages: list[RawClient] = []  # those that stay; the first user has several
        self.published: list[str] = []  # since the pages are there

    async def open(self, targets: Sequence[str]) -> list[RawClient]:
        """Open a page for each of `targets`, all at one instant, and wait for their confirms."""
        pages = [
            await self._stack.enter_async_context(await RawClient.connect(self._proxy.url)) for _ in targets
        ]
        for page, target in zip(pages, targets, strict=True):
            page.request(target, EVENT_SOURCE)
        for page in pages:
            await page.wait_for(b"connection_confirmed", within=30.0)
        return pages

    async def say(self, content: str) -> None:
        """Publish a message to the whole chat."""
        self.published.append(content)
        members = self._server.members
        number = len(self.published)
        await publish(
            self._client, number, chat=CHAT, members=members, sender=members[number % USERS], content=content
        )
        await self._client.flush()

    async def talk(self, count: int) -> None:
        """Publish `count` messages, evenly."""
        for number in range(count):
            await self.say(f"message {len(self.published)} {number}")
            await asyncio.sleep(1 / self._size.per_second)

    async def all_heard(self) -> None:
        """Wait until each page that stays has heard each message."""
        for page in self.pages:
            await page.wait_for(lambda page: len(messages(page)) >= len(self.published), within=30.0)

    def each_once(self) -> None:
        """Each page that stays has heard each message once and in order, in either form."""
        for page in self.pages:
            assert messages(page) == self.published
            named = [json.loads(event.data) for event in page.events if event.type == "NewMessage"]
            assert [each["content"] for each in named] == self.published
            assert page.ending is None

    async def close(self) -> None:
        """Close every page."""
        await self._stack.aclose()


async def story(build: str, size: Size, folder: Path) -> Chat:
    """Play everything, one after the other, while messages go on."""
    users = USERS + size.leaving + size.herd
    async with AsyncExitStack() as stack:
        _, port = stack.enter_context(nats_server(folder))
        server = await stack.enter_async_context(Killable(users, build, nats=port))
        # At the end all leave at one instant, at full size more than the example holds.
        held = str(2 * users)
        written = example(server.url, servers=f"nats://127.0.0.1:{port}", max_held=held)
        proxy = stack.enter_context(running_proxy(folder, config=written))
        await asyncio.to_thread(proxy.wait_for_metric, "sse_proxy_bridge_connected", 1.0, 30, route="events")
        chat = Chat(server, proxy, await stack.enter_async_context(publisher(port)), size)
        stack.push_async_callback(chat.close)
        targets = server.targets
        staying, leaving = targets[:USERS], targets[USERS : USERS + size.leaving]
        chat.pages += await chat.open([*staying, *[targets[0]] * (TABS - 1)])

        await chat.talk(size.messages)
        await chat.all_heard()

        for page in await chat.open(leaving):
            await page.close()
        await chat.talk(size.messages // 4)
        await chat.all_heard()
        assert not (await server.state())["frozen"]

        talking = asyncio.create_task(chat.talk(int((size.away + 1) * size.per_second)))
        server.kill()
        await asyncio.sleep(size.away)
        await server.start()
        await talking
        await chat.all_heard()

        await chat.say(EIGHTEEN_CHARACTERS)
        if build == "fixed":
            assert await server.ended() == -signal.SIGABRT
        await chat.all_heard()
        if build == "fixed":
            await server.start()
        await chat.talk(size.messages // 4)
        await chat.all_heard()

        talking = asyncio.create_task(chat.talk(size.messages // 4))
        herd = await chat.open(targets[USERS + size.leaving :])
        await talking
        await chat.say("for all")
        for page in herd:
            await page.wait_for(lambda page: messages(page)[-1:] == ["for all"], within=30.0)
            assert len(set(messages(page))) == len(messages(page))
        await chat.all_heard()
        await asyncio.sleep(1.5)  # longer than `grace`: a copy of the server would be there by then
        chat.each_once()

        await chat.close()
        assert await asyncio.to_thread(proxy.stop) == 0
        await chat.say("without the proxy")  # it has said who is gone, so this does no harm
        assert not (await server.state())["frozen"]
        return chat


@pytest.mark.parametrize("build", ["silent", "fixed"])
def test_nobody_misses_a_message_whatever_happens(build: str, tmp_path: Path) -> None:
    with descriptors(1000):
        run(story(build, SMALL, tmp_path), within=120.0)


if __name__ == "__main__":
    for each in ("silent", "fixed"):
        with descriptors(8 * FULL.herd), tempfile.TemporaryDirectory() as temporary:
            played = asyncio.run(story(each, FULL, Path(temporary)))
        told = f"{len(played.published)} messages, each once at {len(played.pages)} pages"
        sys.stdout.write(f"{each}: {told}\n")
