"""The bridge beside the stand-in of notify-server. Both get the same messages of a real nats-server,
published as the real application does it, while nats-server is killed and started again. Every stream ends
with exactly the messages for it.

With core NATS, the promise is for what the proxy has read before nats-server dies, and for what is published
while the proxy is connected. Other messages may arrive, but not twice. With JetStream, the promise is for
every message that nats-server has acknowledged.

The suite plays it small. As a program, `python -m` with this module plays the full size.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from sse_keepalive_proxy.demo.hub import Mode
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from tests.integration.test_bridge import places
from tests.integration.test_many_streams import descriptors
from tests.support.chat import listening_to_nats, messages, spoken
from tests.support.instance import Instance, config
from tests.support.nats import nats_server
from tests.support.programs import Program, free_port
from tests.support.raw_client import RawClient
from tests.support.running import on_loop, soon

STREAM = """\
identity: {{verify: upstream}}
stall: {{sign_of_life: events, ignore: {{types: [heartbeat, connection_confirmed]}}}}
reconnect: {{when: always, delay: 50ms, max_delay: 1s}}
share: {{by: claim:user.id}}
leave: {{hold: 1m}}
rewrite: {{unname: [Generic]}}
max_age: off
bridge:
  servers: nats://127.0.0.1:{port}
  mode: {mode}
  grace: 500ms
  subscriber: claim:user.id
  subjects:
    - subject: fechatter.realtime.chat.*
      when: MessageReceived
      recipients: MessageReceived.recipients
      keys:
        - MessageReceived.message.id
        - "[MessageReceived.chat_id, MessageReceived.message.sender_id, MessageReceived.message.content]"
      upstream_keys: [message.id, "[chat_id, sender_id, content]"]
      data: "{{type: `new_message`, chat_id: MessageReceived.chat_id, message: MessageReceived.message}}"
  durable: {durable}
"""
MESSAGE = b'"type":"new_message"'
NOWHERE = 0  # a chat without members: its messages only show what has become of those before them


@dataclass(frozen=True, slots=True)
class Size:
    """How much is played. `kills`: how often nats-server is killed. `away`: the longest time until it is
    started again, in seconds.
    """

    users: int
    chats: int
    members: int
    messages: int
    kills: int
    away: float


SMALL = Size(users=30, chats=8, members=6, messages=240, kills=1, away=0.1)
FULL = Size(users=200, chats=50, members=10, messages=10_000, kills=8, away=3.0)


def chats(size: Size = SMALL) -> dict[int, list[int]]:
    """Some users in each chat."""
    draw = random.Random(17)
    users = range(1, size.users + 1)
    return {chat: draw.sample(users, size.members) for chat in range(1, size.chats + 1)}


class Story:
    """The servers, the pages of all users, and what was published."""

    def __init__(self, build: Mode, mode: str, size: Size, folder: Path, *, durable: bool) -> None:
        self.build, self.mode, self.size, self.folder, self.durable = build, mode, size, folder, durable
        self.members = chats(size)
        self.port, self.draw = free_port(), random.Random(18)
        self.notify = NotifyServer(build, chats=self.members)
        self.pages: dict[int, RawClient] = {}
        self.published = 0
        self.promised: set[int] = set()  # the numbers of messages that must be heard
        self.others = 0  # messages that may be heard
        self.last = ""  # a message that all hear, and upstream does not
        self._server, self._client = ExitStack(), Client()
        self._program: Program | None = None
        self._read_by_upstream: set[int] = set()
        self._recovered = self.recovered

    # nats-server, and its publisher.

    async def start_nats(self) -> None:
        """Start nats-server on its port, with what it has stored."""
        stored = ("-js", "-sd", str(self.folder / "stored")) if self.durable else ()
        starting = nats_server(self.folder, self.port, *stored)
        self._program, _ = await asyncio.to_thread(self._server.enter_context, starting)

    async def kill_nats(self) -> None:
        """SIGKILL: it has no time for anything."""
        assert self._program is not None
        self._program.process.kill()
        await asyncio.to_thread(self._server.close)

    async def say(self, *, promised: bool = True) -> None:
        """Publish the next message to one of the chats."""
        self.published = number = self.published + 1
        chat = number % self.size.chats + 1
        if promised:
            self.promised.add(number)
        else:
            self.others += 1
        await self._surely_publish(number, chat, self.members[chat])

    async def _surely_publish(self, number: int, chat: int, members: list[int]) -> None:
        """Publish a message. With JetStream it is published until it is stored."""
        while True:
            with contextlib.suppress(nats.errors.Error):  # not stored, or nats-server died before its answer
                await self._publish(number, chat, members)
                return

    async def _publish(self, number: int, chat: int, members: list[int]) -> None:
        how = {"chat": chat, "members": members, "sender": members[0], "content": f"message {number}"}
        for subject, value in spoken(number, **how).items():
            payload = json.dumps(value).encode()
            if self.durable and "realtime" in subject:
                stored = {"Nats-Msg-Id": str(number)}
                await self._client.jetstream().publish(subject, payload, timeout=0.5, headers=stored)
            else:
                await self._client.publish(subject, payload)

    def hear(self, subject: str, payload: Any) -> None:
        """Take a message of NATS for the stand-in."""
        if subject.endswith(f".{NOWHERE}"):
            self._read_by_upstream.add(int(payload["MessageReceived"]["message"]["id"]))
        else:
            self.notify.publish(subject, payload)

    async def all_read(self) -> None:
        """Wait until the proxy and the stand-in have read what was published before."""
        before = self._read_by_proxy
        while True:
            self.published += 1
            with contextlib.suppress(AssertionError, nats.errors.Error):  # one of them is not connected yet
                await self._publish(self.published, NOWHERE, [0])
                await self._client.flush()
                await soon(
                    lambda: self.published in self._read_by_upstream and self._read_by_proxy > before,
                    within=2.0,
                )
                return

    @property
    def _read_by_proxy(self) -> int:
        return self.counted("no_subscriber")

    def counted(self, outcome: str) -> int:
        """How often a message had this outcome."""
        return int(self.proxy.metric("bridge_events_total", outcome=outcome))

    # Upstream's streams, and their gaps.

    @property
    def recovered(self) -> dict[int, int]:
        """How many gaps each page was told of."""
        return {user: page.body.count(b"event: stream_recovered") for user, page in self.pages.items()}

    async def settle(self) -> None:
        """Wait until upstream has an open stream of each user, with nothing to send: no gap is under way."""

        def settled() -> bool:
            streams = self.notify.hub.streams
            states = ("connecting", "reconnecting")
            return (
                len(streams) == self.size.users
                and all(stream.answered and stream.queue.empty() for stream in streams)
                and not any(self.proxy.metric("streams_active", state=state) for state in states)
                and self.all_heard
            )

        await soon(settled, within=60.0)

    @property
    def all_heard(self) -> bool:
        """Whether the pages have all that the proxy has written."""
        origins = ("upstream", "synthetic")
        written = sum(self.proxy.metric("downstream_bytes_total", origin=origin) for origin in origins)
        return sum(len(page.body) for page in self.pages.values()) == written

    async def hear_the_last(self) -> None:
        """Wait until each page has a message that only NATS has: what waited before it at the proxy waits no
        more. Then nothing waits, and the pages have all.
        """
        self.published += 1
        self.last = f"message {self.published}"
        await self._surely_publish(self.published, NOWHERE, list(self.pages))
        for page in self.pages.values():
            await page.wait_for(f'"content":"{self.last}"'.encode(), within=60.0)

        def decided() -> bool:
            return not any(place.snapshot()["waiting"] for place in places(self.proxy)) and self.all_heard

        await soon(decided, within=60.0)

    # The story.

    async def open(self, stack: AsyncExitStack) -> None:
        """Start everything, and open a page for each user."""
        stack.callback(self._server.close)
        await self.start_nats()
        how = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.05}
        await self._client.connect(f"nats://127.0.0.1:{self.port}", **how)
        stack.push_async_callback(self._client.close)
        if self.durable:
            await self._client.jetstream().add_stream(StreamConfig("CHAT", subjects=["fechatter.realtime.>"]))
        await self.notify.start()
        stack.push_async_callback(self.notify.stop)
        durable = "{stream: CHAT}" if self.durable else "off"
        text = STREAM.format(port=self.port, mode=self.mode, durable=durable)
        self.proxy = await stack.enter_async_context(Instance(config(self.notify.url, text)))
        await stack.enter_async_context(listening_to_nats(self.port, self.hear))
        await self.proxy.until(lambda: self.proxy.metric("bridge_connected"))
        for user in range(1, self.size.users + 1):
            target = f"/events?access_token={self.notify.token(user)}"
            self.pages[user] = await stack.enter_async_context(await self.proxy.event_source(target))
        for page in self.pages.values():
            await page.wait_for(b"connection_confirmed", within=30.0)
        await self.all_read()
        await self.settle()
        self._recovered = self.recovered

    async def play(self) -> None:
        """Publish all messages, and kill nats-server at some moments."""
        size = self.size
        middle = range(size.messages // 10, size.messages * 9 // 10)
        kills = set(self.draw.sample(middle, size.kills))
        for number in range(size.messages):
            if number in kills:
                await (self.restart_durable if self.durable else self.restart)()
            else:
                await self.say()
            if not number % 10:
                await self._client.flush()
                await asyncio.sleep(0.01)
        await self.all_read()
        for user, page in self.pages.items():
            mine = len([each for each in self.promised if user in self.recipients(each)])
            await page.wait_for(lambda page, mine=mine: page.body.count(MESSAGE) >= mine, within=60.0)
            await asyncio.sleep(0)  # the proxy runs in this loop, too
        await self.settle()
        await self.hear_the_last()
        self.no_gap_was_told()

    async def restart(self) -> None:
        """Kill nats-server in the middle of a burst, while earlier messages still wait for upstream. Publish
        while it is away, and before the proxy has found it again.
        """
        await self.all_read()
        self.no_gap_was_told()
        for _ in range(self.draw.randrange(20)):
            await self.say(promised=False)
        await self.kill_nats()
        await soon(lambda: not self.proxy.metric("bridge_connected"), within=20.0)
        for _ in range(self.draw.randrange(20)):
            await self.say(promised=False)
        await asyncio.sleep(self.draw.random() * self.size.away)
        await self.start_nats()
        await soon(lambda: self._client.is_connected, within=20.0)
        for _ in range(self.draw.randrange(20)):
            await self.say(promised=False)
        await self.connected()

    async def restart_durable(self) -> None:
        """Kill nats-server in the middle of the messages, while they are published until they are stored."""
        self.no_gap_was_told()
        talking = asyncio.create_task(self._talk())
        await asyncio.sleep(self.draw.random() * 0.02)
        await self.kill_nats()
        await soon(lambda: not self.proxy.metric("bridge_connected"), within=20.0)
        await asyncio.sleep(self.draw.random() * self.size.away)
        await self.start_nats()
        await talking
        await self.connected()

    async def _talk(self) -> None:
        for _ in range(20):
            await self.say()
            await asyncio.sleep(0.002)

    async def connected(self) -> None:
        """Wait until the proxy and the stand-in are connected to NATS, and no gap is under way."""
        await soon(lambda: self.proxy.metric("bridge_connected"), within=20.0)
        await self.all_read()
        await self.settle()
        self._recovered = self.recovered

    def recipients(self, number: int) -> list[int]:
        """For whom a message is."""
        return self.members[number % self.size.chats + 1]

    # What must be true.

    def no_gap_was_told(self) -> None:
        """No page was told of a gap since NATS was there: it had every message of it."""
        assert self.recovered == self._recovered

    def check(self) -> int:
        """Each page has heard exactly its messages, and those that were filled in their order. Return how
        many.
        """
        total = 0
        for user, page in self.pages.items():
            said = [content for content in messages(page) if content != self.last]
            heard = [int(content.removeprefix("message ")) for content in said]
            assert len(set(heard)) == len(heard)
            assert {each for each in self.promised if user in self.recipients(each)} <= set(heard)
            assert all(user in self.recipients(number) for number in heard)
            datas = [json.loads(event.data) for event in page.events if event.type == "message"]
            filled = [data for data in datas if data.get("type") == "new_message" and "event" not in data]
            numbers = [int(data["message"]["id"]) for data in filled]
            assert numbers == sorted(numbers)
            assert page.ending is None
            total += len(heard)
        assert self.counted("invalid") == 0
        return total


async def played(build: Mode, mode: str, size: Size, folder: Path, *, durable: bool) -> str:
    """Play all of it. Return the figures."""
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        story = Story(build, mode, size, folder, durable=durable)
        await story.open(stack)
        await story.play()
        heard = story.check()
        promised = sum(len(story.recipients(number)) for number in story.promised)
        outcomes = ("delivered", "filled", "dropped", "missed")
        found = [
            f"{len(story.promised)} messages in the promise, heard {promised} times",
            f"{story.others} others, heard {heard - promised} times",
            *(f"{outcome} {story.counted(outcome)}" for outcome in outcomes),
            f"gaps told {sum(story.recovered.values())}",
            f"{time.monotonic() - began:.0f} s",
        ]
        return ", ".join(found)


@pytest.mark.parametrize("mode", ["fill", "replace"])
@pytest.mark.parametrize("build", list(Mode))
def test_every_stream_ends_with_exactly_its_messages(build: Mode, mode: str, tmp_path: Path) -> None:
    async def small() -> None:
        await played(build, mode, SMALL, tmp_path, durable=False)

    on_loop("uvloop", small(), within=120.0)


def test_with_jetstream_every_message_is_heard_that_is_stored(tmp_path: Path) -> None:
    async def small() -> None:
        await played(Mode.SILENT, "fill", SMALL, tmp_path, durable=True)

    on_loop("uvloop", small(), within=120.0)


if __name__ == "__main__":
    for storage in sys.argv[1:] or ["core", "durable"]:
        for way in ("fill", "replace"):
            for each in Mode:
                with descriptors(10 * FULL.users), tempfile.TemporaryDirectory() as temporary:
                    playing = played(each, way, FULL, Path(temporary), durable=storage == "durable")
                    told = asyncio.run(playing)
                sys.stdout.write(f"{storage}, {way}, {each}: {told}\n")
                sys.stdout.flush()
