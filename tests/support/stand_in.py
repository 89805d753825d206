"""The stand-in for notify-server in the test's loop or as a process that can be killed, and the proxy in
front of it as a process.

The proxy runs with `config.example.yaml`, only its upstream and some times replaced: what is proved here
holds for what users are given.

    async with healing(tmp_path, interval="1s") as (notify, proxy):
        async with await event_source(proxy.url, notify) as client:
            say(notify, "hi")
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from sse_keepalive_proxy.demo.answers import Handler
from sse_keepalive_proxy.demo.hub import Outcome
from sse_keepalive_proxy.demo.knobs import Knobs
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.demo.tokens import Hs256Tokens
from tests.support.chat import listening_to_nats
from tests.support.instance import EVENT_SOURCE
from tests.support.programs import free_port
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.running import soon

__all__ = [
    "CHAT",
    "SENDER",
    "Killable",
    "event_source",
    "example",
    "healing",
    "listening",
    "new_user",
    "pings",
    "restarted",
    "said",
    "say",
]

CHAT = 2
SENDER = 4  # never reads a stream here: nobody hears their own messages

_EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
_KEY = re.compile(r" *(?:- )?(\w+):(?: |$)")


def example(upstream: str, **values: str) -> str:
    """`config.example.yaml` with another upstream and other values of keys.

    A key is called by its name or, where several sections have one of that name, by its section's too:
    `stall_after`.
    """
    lines = _EXAMPLE.read_text(encoding="utf-8").splitlines()
    places = dict(_places(lines))
    for wanted, value in {"url": upstream, **values}.items():
        found = [at for at, (section, key) in places.items() if wanted in (key, f"{section}_{key}")]
        assert len(found) == 1, f"{len(found)} keys are called {wanted}"
        lines[found[0]] = f"{lines[found[0]].partition(':')[0]}: {value}"
    return "\n".join(lines) + "\n"


def _places(lines: list[str]) -> Iterator[tuple[int, tuple[str, str]]]:
    """The number of each line that holds a key, with the names of its section and of the key."""
    above: list[tuple[int, str]] = []  # the keys that a line is inside of, each with its column
    for number, line in enumerate(lines):
        if found := _KEY.match(line):
            column, key = found.start(1), found[1]
            above = [outer for outer in above if outer[0] < column]
            yield number, (above[-1][1] if above else "", key)
            above.append((column, key))


@contextlib.asynccontextmanager
async def healing(
    directory: Path,
    mode: str = "silent",
    knobs: Knobs | None = None,
    pages: Mapping[str, Handler] = MappingProxyType({}),
    **values: str,
) -> AsyncIterator[tuple[NotifyServer, ProxyProcess]]:
    """Both, running. `values` are for `example`."""
    notify = NotifyServer(mode, knobs=knobs, pages=pages)
    await notify.start(port=free_port())  # nobody else gets it while it restarts
    try:
        with running_proxy(directory, config=example(notify.url, **values)) as proxy:
            yield notify, proxy
    finally:
        await notify.stop()


def new_user(notify: NotifyServer) -> tuple[int, str]:
    """Somebody new in the chat, and the path of their stream: the server has one slot for each user."""
    user = notify.hub.join(CHAT)
    return user, f"/events?access_token={notify.token(user)}"


async def event_source(url: str, notify: NotifyServer, *headers: str) -> RawClient:
    """A client that has asked for the stream of a new user as a browser does."""
    client = await RawClient.connect(url)
    client.request(new_user(notify)[1], EVENT_SOURCE, *headers)
    return client


def say(notify: NotifyServer, content: str, *, sender: int = SENDER) -> Outcome:
    """A message to the chat, as NATS would bring it."""
    message = {"chat_id": CHAT, "sender_id": sender, "content": content}
    return notify.publish("fechatter.message.new", message)


async def listening(notify: NotifyServer, count: int = 1, within: float = 20.0) -> None:
    """Wait until so many streams would get a message: what is said before is gone for the others."""

    def registered() -> int:
        return sum(stream.registered and stream.answered for stream in notify.hub.streams)

    await soon(lambda: registered() == count, lambda: f"{registered()} are listening, not {count}", within)


async def restarted(notify: NotifyServer) -> None:
    """Upstream is killed, and there again at once, on the same port and with the same keys."""
    await notify.stop()
    await notify.start(port=notify.port)


def said(client: RawClient) -> list[Any]:
    """What a script with `onmessage` and nothing else would have heard: the decoded data of each event, but
    pings.
    """
    heard = [json.loads(event.data) for event in client.events if event.type == "message"]
    return [data for data in heard if data["type"] != "ping"]


def pings(body: bytes) -> int:
    """How many pings a client has got, of the form in the example."""
    return body.count(b'{"type":"ping",')


class Killable:
    """The stand-in as a process of its own, on one port and with the same keys through all its lives.

    `users` is how many there are, beginning with `FIRST_USER`. They are in the chats from `CHAT` on,
    `chat_size` of them in each, or all in one. With `nats`, the port of a nats-server, it hears that as the
    real server does.
    """

    FIRST_USER = 1000

    def __init__(
        self,
        users: int,
        mode: str = "healthy",
        knobs: Knobs | None = None,
        chat_size: int | None = None,
        nats: int | None = None,
    ) -> None:
        self._members = tuple(range(self.FIRST_USER, self.FIRST_USER + users))
        size = chat_size or users
        self._chats = {
            CHAT + number: self._members[at : at + size] for number, at in enumerate(range(0, users, size))
        }
        self._mode, self._knobs, self._nats = mode, knobs or Knobs(), nats
        self._tokens = Hs256Tokens()  # unlike the others they can be handed to a process
        self._port = free_port()
        self._process: SpawnProcess | None = None

    @property
    def url(self) -> str:
        """Where it listens, whenever it lives."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def targets(self) -> list[str]:
        """The path of each user's stream."""
        return [f"/events?access_token={self._tokens.issue(user)}" for user in self._members]

    async def start(self) -> None:
        """Returns when it listens."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        how = (theirs, self._port, self._tokens, self._chats, self._mode, self._knobs, self._nats)
        self._process = context.Process(target=_live, args=how, daemon=True)
        self._process.start()
        theirs.close()
        with ours:
            await asyncio.to_thread(ours.recv)  # EOFError when it has ended instead

    async def ended(self) -> int | None:
        """Wait until it has ended by itself. Return its exit code."""
        process = self._process
        if process is None:
            return None
        await asyncio.to_thread(process.join)
        code = process.exitcode
        self.kill()
        return code

    def kill(self) -> None:
        """SIGKILL: it has no time for anything."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None

    @property
    def chats(self) -> list[int]:
        """The ids of its chats."""
        return list(self._chats)

    @property
    def members(self) -> Sequence[int]:
        """The ids of its users."""
        return self._members

    async def say(self, content: str, chat: int = CHAT) -> Outcome:
        """A message to a chat, as NATS would bring it."""
        message = {"chat_id": chat, "sender_id": SENDER, "content": content}
        body = json.dumps({"subject": "fechatter.message.new", "payload": message}).encode()
        async with await RawClient.connect(self.url) as client:
            client.request("/demo/publish", method="POST", body=body)
            return Outcome(**json.loads((await client.wait_response(within=20)).body))

    async def state(self) -> dict[str, Any]:
        """What it says of itself, also when it is frozen."""
        async with await RawClient.connect(self.url) as client:
            client.request("/demo/state")
            state: dict[str, Any] = json.loads((await client.wait_response(within=20)).body)
            return state

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()


def _live(
    ready: Connection,
    port: int,
    tokens: Hs256Tokens,
    chats: Mapping[int, tuple[int, ...]],
    mode: str,
    knobs: Knobs,
    nats: int | None,
) -> None:
    """The life of a `Killable`."""

    async def serve() -> None:
        server = NotifyServer(mode, chats=chats, knobs=knobs, tokens=tokens, abort=os.abort)
        await server.start(port=port)
        async with contextlib.AsyncExitStack() as stack:
            if nats is not None:
                await stack.enter_async_context(listening_to_nats(nats, server.publish))
            ready.send(port)
            await asyncio.Event().wait()

    asyncio.run(serve())
