"""Clients that come and go before a server that freezes when one has left (facts.md#notify-server-freeze).

The suite plays a short time. As a program, `python -m` with this module and a number of seconds plays longer.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import tempfile
from pathlib import Path

from tests.support.instance import EVENT_SOURCE
from tests.support.looping import run
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.stand_in import Killable, example

CLIENTS, CHAT_SIZE = 200, 5
RATE = 10  # messages per second
STAYS, AWAY = 4.0, 2.0  # seconds, the means
SECONDS = 12.0


class Crowd:
    """Clients that open a stream, stay a while, leave in one of three ways, and come back."""

    def __init__(self, proxy: ProxyProcess, targets: list[str], seed: int) -> None:
        self._proxy = proxy
        self._targets = targets
        self._random = random.Random(seed)
        self.heard = 0  # messages that reached a client
        self.visits = 0
        self.ended: list[RawClient] = []  # streams that ended before their client left

    async def come_and_go(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for target in self._targets:
                tasks.create_task(self._visits(target))

    async def _visits(self, target: str) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(1 / AWAY))
            async with await RawClient.connect(self._proxy.url) as client:
                client.request(target, EVENT_SOURCE)
                await asyncio.sleep(self._random.expovariate(1 / STAYS))
                self.visits += 1
                self.heard += client.body.count(b'"type":"new_message"')
                if client.ending is not None:
                    self.ended.append(client)
                elif (way := self._random.random()) < 1 / 3:
                    client.abort()
                elif way < 2 / 3 and client.body:  # before the answer, a half-close does not mean leaving
                    client.half_close()
                    await client.wait_end()


async def talk(upstream: Killable, seed: int) -> None:
    """Say something in a random chat, `RATE` times a second, until the server is frozen."""
    chats = random.Random(seed)
    clock = asyncio.get_running_loop().time
    began_at = clock()
    for number in itertools.count(1):
        await upstream.say(f"message {number}", chats.choice(upstream.chats))
        if (await upstream.state())["frozen"]:
            return
        await asyncio.sleep(began_at + number / RATE - clock())


async def play(directory: Path, seconds: float, seed: int, **values: str) -> tuple[Crowd, bool]:
    """Let the crowd come and go for a time. Return it, and whether the server was frozen at its end."""
    async with Killable(CLIENTS, "silent", chat_size=CHAT_SIZE) as upstream:
        with running_proxy(directory, config=example(upstream.url, **values)) as proxy:
            crowd = Crowd(proxy, upstream.targets, seed)
            talking = asyncio.create_task(talk(upstream, seed))
            coming = asyncio.create_task(crowd.come_and_go())
            done, _ = await asyncio.wait(
                {talking, coming}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            for task in (talking, coming):
                task.cancel()
            await asyncio.gather(talking, coming, return_exceptions=True)
            for task in done:
                task.result()
            return crowd, (await upstream.state())["frozen"]


async def lives(directory: Path, seconds: float) -> Crowd:
    """With `leave.hold` the server lives, and nobody's stream ends."""
    crowd, frozen = await play(directory, seconds, seed=16)
    assert not frozen
    assert crowd.ended == []
    assert crowd.heard > 0
    return crowd


def test_with_hold_the_server_outlives_clients_that_come_and_go_at_random(tmp_path: Path) -> None:
    run(lives(tmp_path, SECONDS), within=60)


def test_without_hold_the_same_clients_freeze_the_server_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        _, frozen = await play(tmp_path, 60.0, seed=16, hold="off", linger="1ms")
        assert frozen

    run(story(), within=90)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(lives(Path(folder), float(sys.argv[1])))
    sys.stdout.write(f"{seen.visits} visits, {seen.heard} messages heard\n")
