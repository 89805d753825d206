"""Everything the demo runs, in one event loop: the stand-in, the proxy in front of it, two observers.

The proxy is the real one with its real configuration (`demo.yaml`, read as any other file); all that
happens goes over sockets of loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from sse_keepalive_proxy.config import Overrides, Settings, load
from sse_keepalive_proxy.demo import DEFAULT_PORT
from sse_keepalive_proxy.demo.frames import rfc3339
from sse_keepalive_proxy.demo.hub import Outcome
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.demo.observer import Figures, Observer
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
"""Seconds that upstream is away when it restarts: longer than the keepalive's interval."""

_CONFIG = Path(__file__).parent / "demo.yaml"
_HOST = "127.0.0.1"
_RETURNS = 10.0  # seconds for a lost upstream to be open again
_LOOK = 0.02  # seconds between two looks
_APART = frozenset({State.CONNECTING, State.RECONNECTING})


def settings(*, upstream: str | None = None, port: int = DEFAULT_PORT) -> Settings:
    """The demo's configuration, with the proxy on `port` (0: a free one). No environment has a say in it."""
    overrides = Overrides(listen=f"{_HOST}:{port}", upstream=upstream)
    return load(_CONFIG, environ={}, overrides=overrides).settings


@contextlib.asynccontextmanager
async def staged(port: int | None = None) -> AsyncIterator[Stage]:
    """A running stage whose two streams are open; everything is gone afterwards.

    port: where the proxy and its page are; None is `DEFAULT_PORT`, or a free one where that is taken.
    Raises `CannotListen`.
    """
    stage = Stage()
    try:
        await stage.start(port)
        yield stage
    finally:
        await stage.stop()


class Stage:
    """What `staged` gives. `direct` and `proxied` observe the same chat's stream, each as its own user."""

    def __init__(self) -> None:
        self.notify = NotifyServer(
            pages=pages(
                join=self._join,
                wire=self._wire,
                restart=self._restart,
                direct=self.direct_anew,
                outage=self._outage,
                say=self._say,
            )
        )
        self.restarts = 0  # of upstream
        self.direct_url = self.proxy_url = self.admin_url = ""
        self.moved = False  # the default port was taken
        self._server: Server | None = None
        self._poller = open_poller()
        self._dialer = Dialer(self._poller)
        self._news = asyncio.Event()
        self._act: asyncio.Task[None] | None = None  # what a page has asked for last
        self.direct = Observer(self._dialer, self._news.set)
        self.proxied = Observer(self._dialer, self._news.set)

    async def start(self, port: int | None) -> None:
        """Listen, and open both streams. Raises `CannotListen`."""
        await self.notify.start(_HOST)
        self.direct_url = self.notify.url
        self._server = await self._serve(port)
        self.proxy_url = f"http://{self._server.addresses[0]}"
        self.admin_url = f"http://{self._server.admin_addresses[0]}"
        await self._open()

    async def stop(self) -> None:
        """End everything at once."""
        if self._act is not None:
            self._act.cancel()
            await asyncio.gather(self._act, return_exceptions=True)
        for observer in (self.direct, self.proxied):
            observer.close()
        if self._server is not None:
            hurry = asyncio.Event()
            hurry.set()
            await self._server.drain(hurry)
        await self.notify.stop()
        self._poller.close()

    def send(self, content: str) -> Outcome:
        """A message of user `SENDER` to the chat, as NATS would bring it."""
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
        """Of the direct and of the proxied stream."""
        return self.direct.figures(), self.proxied.figures()

    async def until(self, condition: Callable[[], bool], within: float) -> bool:
        """Wait until `condition`, which is asked again at every change of a figure; false when it does not
        come true within so many seconds.
        """
        try:
            async with asyncio.timeout(within):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def connected(self) -> bool:
        """Wait until every stream of the proxy has its upstream; false when that takes too long. What is
        published while a stream has none is gone: the server keeps nothing.
        """
        give_up_at = asyncio.get_running_loop().time() + _RETURNS
        while self._server is not None and any(
            stream.life.state in _APART for stream in self._server.streams
        ):
            if asyncio.get_running_loop().time() > give_up_at:
                return False
            await asyncio.sleep(_LOOK)
        return True

    async def direct_anew(self) -> None:
        """Open the direct stream again if it is over, as a page does that is loaded again."""
        if self.direct.figures().end is not None:
            self.direct = Observer(self._dialer, self._news.set)
            await self.direct.open(self.direct_url, self._join()["access_token"])

    async def restart_upstream(self) -> None:
        """Break every connection of upstream's, and start it again on its port after `DOWN` seconds."""
        await self.notify.stop()
        await asyncio.sleep(DOWN)
        for _ in range(round(_RETURNS / _LOOK)):
            with contextlib.suppress(
                OSError
            ):  # while it was free, somebody may have had the port for a moment
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
            self.direct.open(self.direct_url, self._join()["access_token"]),
            self.proxied.open(self.proxy_url, self._join()["access_token"]),
        )

    # What the page asks for.

    def _join(self) -> dict[str, Any]:
        """Every reader is a user of its own: notify-server has one slot for each."""
        user_id = self.notify.hub.join(CHAT)
        return {"user_id": user_id, "access_token": self.notify.token(user_id)}

    def _wire(self) -> dict[str, Any]:
        direct, proxied = self.figures()
        return {
            "chat_id": CHAT,
            "sender_id": SENDER,
            "restarts": self.restarts,
            "direct_url": self.direct_url,
            "proxy_url": self.proxy_url,
            "direct": dataclasses.asdict(direct),
            "proxied": dataclasses.asdict(proxied),
        }

    def _restart(self) -> dict[str, Any]:
        """Both streams anew, as a page does that is loaded again."""
        if self._is_free():
            for observer in (self.direct, self.proxied):
                observer.close()
            self.direct = Observer(self._dialer, self._news.set)
            self.proxied = Observer(self._dialer, self._news.set)
            self._start(self._open())
        return {}

    def _outage(self) -> dict[str, Any]:
        """Upstream restarts; it answers this first."""
        if self._is_free():
            self._start(self.restart_upstream())
        return {}

    async def _say(self, content: str) -> Outcome:
        await self.connected()
        return self.send(content)

    def _is_free(self) -> bool:
        return self._act is None or self._act.done()

    def _start(self, act: Coroutine[Any, Any, None]) -> None:
        self._act = asyncio.get_running_loop().create_task(act)
