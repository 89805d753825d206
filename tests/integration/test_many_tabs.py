"""Users with three tabs each before a server that has one place for each user and ends the stream after each
event (facts.md#notify-server-builds).

The suite plays a short time with few users. As a program, `python -m` with this module, a number of users
and a number of seconds, plays more, and prints the memory of the proxy every minute, with the
bytes of its logs.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import resource
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.instance import EVENT_SOURCE
from tests.support.looping import run
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.running import soon
from tests.support.stand_in import Killable, example

TABS = 3
RATE = 40.0  # messages per second: the server needs 9 ms for the opening that follows each
BEGIN_AT_ONCE = 32  # users whose tabs are being opened
ARRIVES = 60.0  # seconds

_MESSAGE = re.compile(rb'"content":"message ([0-9]+)"')


class Tab(asyncio.Protocol):
    """An EventSource that keeps only the numbers of the messages that it has heard."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.confirmed = asyncio.Event()
        self.is_over = False
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        whole = data.rfind(b"\n\n") + 1
        blocks, self._rest = data[:whole], data[whole:]
        self.heard += map(int, _MESSAGE.findall(blocks))
        if b"connection_confirmed" in blocks:
            self.confirmed.set()
        if b"stream_closing" in blocks or b"proxy_error" in blocks:
            self.is_over = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_over = True


@dataclass
class User:
    """The tabs of one user, and the messages that the server has put on one of the user's streams."""

    target: str
    chat: int
    tabs: list[Tab]
    delivered: list[int]

    @property
    def has_all(self) -> bool:
        """Whether each tab has heard each of these messages, in order and once."""
        return all(tab.heard == self.delivered for tab in self.tabs)


async def play(
    directory: Path,
    users: int,
    seconds: float,
    report: Callable[[ProxyProcess, list[User]], None],
    least: int = 0,
) -> list[User]:
    """Open all tabs, send messages to random users for a time, and until `least` were delivered, and wait
    until they have arrived. Return the users. `report` is called every minute.
    """
    async with Killable(users, "silent", chat_size=1) as upstream:
        with running_proxy(directory, config=example(upstream.url)) as proxy:
            found = [
                User(target, chat, [], [])
                for target, chat in zip(upstream.targets, upstream.chats, strict=True)
            ]
            transports = await _open(proxy, found)
            try:
                report(proxy, found)
                reporting = asyncio.create_task(_every_minute(proxy, found, report))
                await _talk(upstream, found, seconds, least)
                reporting.cancel()
                missing = [user for user in found if not user.has_all]
                await soon(
                    lambda: all(user.has_all for user in missing),
                    lambda: str([(user.delivered, [tab.heard for tab in user.tabs]) for user in missing][:3]),
                    ARRIVES,
                )
                report(proxy, found)
                assert not [tab for user in found for tab in user.tabs if tab.is_over]
                assert not (await upstream.state())["frozen"]
                assert len((await upstream.state())["streams"]) <= users
                assert proxy.metric("sse_proxy_share_groups", route="events") == users
            finally:
                for transport in transports:
                    transport.abort()
            return found


async def _open(proxy: ProxyProcess, users: list[User]) -> list[asyncio.Transport]:
    loop, transports = asyncio.get_running_loop(), []
    few = asyncio.Semaphore(BEGIN_AT_ONCE)

    async def open_tabs(user: User) -> None:
        async with few:
            for _ in range(TABS):
                transport, tab = await loop.create_connection(Tab, "127.0.0.1", proxy.port)
                transports.append(transport)
                user.tabs.append(tab)
                transport.write(
                    f"GET {user.target} HTTP/1.1\r\nHost: proxy\r\n{EVENT_SOURCE}\r\n\r\n".encode()
                )
            for tab in user.tabs:
                await asyncio.wait_for(tab.confirmed.wait(), 30)

    async with asyncio.TaskGroup() as tasks:
        for user in users:
            tasks.create_task(open_tabs(user))
    return transports


async def _talk(upstream: Killable, users: list[User], seconds: float, least: int) -> None:
    chosen, clock = random.Random(16), asyncio.get_running_loop().time
    began_at = clock()
    for number in itertools.count(1):
        user = chosen.choice(users)
        # A message between two openings is lost by the server. It says so.
        if (await upstream.say(f"message {number}", user.chat)).delivered:
            user.delivered.append(number)
        if clock() > began_at + seconds and sum(len(user.delivered) for user in users) >= least:
            return
        await asyncio.sleep(began_at + number / RATE - clock())


async def _every_minute(
    proxy: ProxyProcess, users: list[User], report: Callable[[ProxyProcess, list[User]], None]
) -> None:
    while True:
        await asyncio.sleep(60)
        report(proxy, users)


def test_each_tab_hears_every_message_that_the_server_delivers_to_its_user(tmp_path: Path) -> None:
    async def story() -> None:
        users = await play(tmp_path, 60, 10.0, lambda *_: None, least=101)
        assert sum(len(user.delivered) for user in users) > 100

    run(story(), within=180)


def _print(proxy: ProxyProcess, users: list[User]) -> None:
    status = Path(f"/proc/{proxy.pid}/status").read_text()
    (rss,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    logs = proxy.metric("sse_proxy_replay_bytes")
    delivered = sum(len(user.delivered) for user in users)
    heard = sum(len(tab.heard) for user in users for tab in user.tabs)
    over = sum(tab.is_over for user in users for tab in user.tabs)
    sys.stdout.write(
        f"RSS {int(rss) / 1024:.1f} MiB, logs {logs / 2**20:.1f} MiB, "
        f"{delivered} delivered to users, {heard} heard by tabs, {over} cut\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder), int(sys.argv[1]), float(sys.argv[2]), _print))
    sys.stdout.write("each tab has heard each message that the server put on a stream of its user\n")
