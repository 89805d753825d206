"""All parts of the demo in one event loop: the stand-in, the proxy in front of it, two observers.

The proxy is the real one, with a real configuration file (`demo.yaml`). All connections use loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from sse_keepalive_proxy.config import Overrides, Settings, load
from sse_keepalive_proxy.demo import DEFAULT_PORT
from sse_keepalive_proxy.demo.frames import rfc3339
from sse_keepalive_proxy.demo.hub import Outcome
from sse_keepalive_proxy.demo.incident import TRIES, Incident, incident, stop_at_once
from sse_keepalive_proxy.demo.knobs import Knobs
from sse_keepalive_proxy.demo.nats_server import Missing
from sse_keepalive_proxy.demo.network import Network
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.demo.observer import Figures, Observer, until
from sse_keepalive_proxy.demo.pages import pages
from sse_keepalive_proxy.errors import CannotListen
from sse_keepalive_proxy.http.dialer import Dialer
from sse_keepalive_proxy.net.poller import open_poller
from sse_keepalive_proxy.serve.server import Server
from sse_keepalive_proxy.stream.states import State

__all__ = ["CHAT", "DOWN", "ROUTE", "SENDER", "Stage", "settings", "staged"]

CHAT = 2
SENDER = 4
ROUTE = "events"
DOWN = 2.5
"""Seconds of upstream's restart: longer than the keepalive interval."""

_CONFIG = Path(__file__).parent / "demo.yaml"
_HOST = "127.0.0.1"
_RETURNS = 10.0  # seconds for a lost upstream to be open again
_LOOK = 0.02  # seconds between two looks
_APART = frozenset({State.CONNECTING, State.RECONNECTING})


def settings(*, upstream: str | None = None, port: int = DEFAULT_PORT) -> Settings:
    """Return the demo's configuration, with the proxy on `port` (0: a free port), without the environment."""
    overrides = Overrides(listen=f"{_HOST}:{port}", upstream=upstream)
    return load(_CONFIG, environ={}, overrides=overrides).settings


@contextlib.asynccontextmanager
async def staged(port: int | None = None) -> AsyncIterator[Stage]:
    """Run a stage with its two open streams, and stop it afterwards.

    `port`: the port of the proxy and its page. None: `DEFAULT_PORT`, or a free port if it is in use.
    Raises `CannotListen`.
    """
    stage = Stage()
    try:
        await stage.start(port)
        yield stage
    finally:
        await stage.stop()


class Stage:
    """The running demo. `direct` and `proxied` observe the stream of one chat, each as another user."""

    def __init__(self) -> None:
        self.notify = NotifyServer(
            knobs=Knobs(freezes=False),  # a closed page must not end the demo
            pages=pages(
                join=self._join,
                wire=self._wire,
                restart=self._restart,
                direct=self.direct_anew,
                outage=self._outage,
                say=self._say,
                network=self._turn,
                incident=self._incident,
                tries=self._tries,
            ),
        )
        self.restarts = 0  # the restarts of upstream
        self.direct_url = self.proxy_url = self.admin_url = ""
        self.moved = False  # whether the default port was in use
        self._server: Server | None = None
        self._poller = open_poller()
        self._dialer = Dialer(self._poller)
        self._news = asyncio.Event()
        self._act: asyncio.Task[None] | None = None  # the last action of a page
        self._networks = {"direct": Network(), "proxied": Network()}
        self._played: Incident | None = None  # once a page has asked for it
        self._playing = contextlib.AsyncExitStack()
        self._starting = asyncio.Lock()
        self.direct = Observer(self._dialer, self._news.set)
        self.proxied = Observer(self._dialer, self._news.set)
        self._others: list[Observer] = []

    async def start(self, port: int | None) -> None:
        """Listen, and open both streams. Raises `CannotListen`."""
        await self.notify.start(_HOST)
        self.direct_url = self.notify.url
        self._server = await self._serve(port)
        self.proxy_url = f"http://{self._server.addresses[0]}"
        self.admin_url = f"http://{self._server.admin_addresses[0]}"
        await self._networks["direct"].start(self.notify.port)
        await self._networks["proxied"].start(int(self._server.addresses[0].rpartition(":")[2]))
        await self._open()

    async def stop(self) -> None:
        """Stop everything at once."""
        if self._act is not None:
            self._act.cancel()
            await asyncio.gather(self._act, return_exceptions=True)
        for observer in (self.direct, self.proxied, *self._others):
            observer.close()
        for network in self._networks.values():
            network.stop()
        await self._playing.aclose()
        if self._server is not None:
            await stop_at_once(self._server)
        await self.notify.stop()
        self._poller.close()

    def send(self, content: str) -> Outcome:
        """Send a message of user `SENDER` to the chat, as from NATS."""
        payload = {
            "event_type": "new_message",
            "chat_id": CHAT,
            "sender_id": SENDER,
            "sender_name": f"User {SENDER}",
            "content": content,
            "files": [],
            "timestamp": rfc3339(time.time_ns()),
            "workspace_id": 2,
        }
        return self.notify.publish("fechatter.message.new", payload)

    def figures(self) -> tuple[Figures, Figures]:
        """Return the figures of the direct and of the proxied stream."""
        return self.direct.figures(), self.proxied.figures()

    def member(self) -> tuple[int, str]:
        """Add a user to the chat. Return its id and its token."""
        user_id = self.notify.hub.join(CHAT)
        return user_id, self.notify.token(user_id)

    async def open(self, url: str, token: str, last_id: bytes = b"") -> Observer:
        """Open one more stream at `url`, and return it after its response head. `stop` closes it."""
        observer = Observer(self._dialer, self._news.set)
        self._others.append(observer)
        await observer.open(url, token, last_id)
        return observer

    async def listening(self, user_id: int, within: float) -> bool:
        """Wait until upstream has a stream of a user that gets the next message. Return whether it has one
        after at most `within` seconds.
        """
        give_up_at = asyncio.get_running_loop().time() + within
        while not any(stream.answered for stream in self.notify.hub.of_users({user_id})):
            if asyncio.get_running_loop().time() > give_up_at:
                return False
            await asyncio.sleep(_LOOK)
        return True

    async def until(self, condition: Callable[[], bool], within: float) -> bool:
        """Wait until `condition` is true, for at most `within` seconds. Return whether it became true.

        It is checked at every change of a figure.
        """
        return await until(self._news, condition, within)

    async def connected(self) -> bool:
        """Wait until every stream and every group of the proxy has its upstream. Return False if that takes
        too long.

        A message that is published while a stream has no upstream is lost, because the server stores nothing.
        """
        give_up_at = asyncio.get_running_loop().time() + _RETURNS
        while self._server is not None and any(
            source.life.state in _APART for source in (*self._server.streams, *self._server.streams.groups)
        ):
            if asyncio.get_running_loop().time() > give_up_at:
                return False
            await asyncio.sleep(_LOOK)
        return True

    async def direct_anew(self) -> None:
        """Open the direct stream again if it has ended, like a page that is loaded again."""
        if self.direct.figures().end is not None:
            self.direct = Observer(self._dialer, self._news.set)
            await self.direct.open(self.direct_url, self.member()[1])

    async def restart_upstream(self) -> None:
        """Break every connection of upstream, and start it again on its port after `DOWN` seconds."""
        await self.notify.stop()
        await asyncio.sleep(DOWN)
        for _ in range(round(_RETURNS / _LOOK)):
            with contextlib.suppress(OSError):  # another program may use the port for a moment
                await self.notify.start(_HOST, self.notify.port)
                self.restarts += 1
                return
            await asyncio.sleep(_LOOK)

    async def _serve(self, port: int | None) -> Server:
        server = Server(settings(upstream=self.direct_url, port=DEFAULT_PORT if port is None else port))
        try:
            await server.start()
        except CannotListen:
            if port is not None:
                raise
            self.moved = True
            server = Server(settings(upstream=self.direct_url, port=0))
            await server.start()
        return server

    async def _open(self) -> None:
        await asyncio.gather(
            self.direct.open(self.direct_url, self.member()[1]),
            self.proxied.open(self.proxy_url, self.member()[1]),
        )

    # What the page asks for.

    def _join(self) -> dict[str, Any]:
        """Return a new user and its token. Every reader is another user, because each has only one place."""
        user_id, token = self.member()
        return {"user_id": user_id, "access_token": token}

    def _wire(self) -> dict[str, Any]:
        direct, proxied = self.figures()
        return {
            "chat_id": CHAT,
            "sender_id": SENDER,
            "restarts": self.restarts,
            "direct_url": self.direct_url,
            "proxy_url": self.proxy_url,
            "networks": {side: network.url for side, network in self._networks.items()},
            "direct": dataclasses.asdict(direct),
            "proxied": dataclasses.asdict(proxied),
        }

    def _restart(self) -> dict[str, Any]:
        """Open both streams again, like a page that is loaded again."""
        if self._is_free():
            for observer in (self.direct, self.proxied):
                observer.close()
            self.direct = Observer(self._dialer, self._news.set)
            self.proxied = Observer(self._dialer, self._news.set)
            self._start(self._open())
        return {}

    def _outage(self) -> dict[str, Any]:
        """Start the restart of upstream, after this answer."""
        if self._is_free():
            self._start(self.restart_upstream())
        return {}

    async def _say(self, content: str, users: Sequence[int]) -> Outcome:
        await self.connected()
        for user_id in users:
            await self.listening(user_id, _RETURNS)
        return self.send(content)

    def _turn(self, up: bool) -> dict[str, Any]:
        for network in self._networks.values():
            network.turn(up=up)
        return {}

    async def _incident(self) -> dict[str, Any]:
        """Start the parts of the incident, once. Return where they are, or what is missing."""
        async with self._starting:
            try:
                if self._played is None:
                    self._played = await self._playing.enter_async_context(incident())
            except Missing as reason:
                return {"missing": str(reason)}
        return {"direct_url": self._played.direct_url, "proxy_url": self._played.proxy_url}

    async def _tries(self) -> dict[str, Any]:
        """Play the incident many times. Return how many messages came back."""
        played = self._played
        if played is None:
            return {}
        direct, proxied = [
            await played.confirmed(url, TRIES) for url in (played.direct_url, played.proxy_url)
        ]
        return {"tries": TRIES, "direct": direct, "proxied": proxied}

    def _is_free(self) -> bool:
        return self._act is None or self._act.done()

    def _start(self, act: Coroutine[Any, Any, None]) -> None:
        self._act = asyncio.get_running_loop().create_task(act)
