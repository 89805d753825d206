"""The incident, many times: a user signs in, opens the stream, sends a message, and waits until it comes
back, which confirms it. The server delivers no message to its sender (facts.md#notify-server-nats).

The scene has parts of its own: a real nats-server, a stand-in that is subscribed to it, and a proxy with the
bridge on (`incident.yaml`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sse_keepalive_proxy.config import Overrides, load
from sse_keepalive_proxy.demo.knobs import Knobs
from sse_keepalive_proxy.demo.nats_server import Missing, nats_server, require_extras
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.demo.observer import Observer, until
from sse_keepalive_proxy.demo.pages import incident_pages
from sse_keepalive_proxy.http.dialer import Dialer
from sse_keepalive_proxy.net.poller import open_poller
from sse_keepalive_proxy.serve.server import Server

if TYPE_CHECKING:
    from nats.aio.client import Client

__all__ = ["TRIES", "Incident", "incident", "stop_at_once"]

TRIES = 100
"""The senders on each side."""

_CONFIG = Path(__file__).parent / "incident.yaml"
_HOST = "127.0.0.1"
_AT_ONCE = 20  # tries at a time: upstream opens one stream after the other
_ARRIVES = 10.0  # seconds
_LOOK = 0.02  # seconds between two looks
_MESSAGE, _ANSWER = "Can you hear me?", "Yes, I can."


class Incident:
    """The parts. `direct_url`, `proxy_url`: where a user can open the stream."""

    def __init__(self) -> None:
        self._notify = NotifyServer(
            knobs=Knobs(freezes=False),  # a user who gives up must not end the scene
            pages=incident_pages(join=self._join, say=self._say),
        )
        self._client: Client
        self._dialer: Dialer
        self.direct_url = self.proxy_url = self.admin_url = ""
        self._published = 0

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start all parts. `stack` ends them. Raises `Missing`."""
        require_extras()
        from sse_keepalive_proxy.demo.chat import listening_to_nats  # needs the extra `nats`

        port = await stack.enter_async_context(nats_server())
        await self._notify.start(_HOST)
        stack.push_async_callback(self._notify.stop)
        self._client = await stack.enter_async_context(listening_to_nats(port, self._notify.publish))
        overrides = Overrides(listen=f"{_HOST}:0", upstream=self._notify.url)
        server = Server(load(_CONFIG, environ={"NATS_PORT": str(port)}, overrides=overrides).settings)
        await server.start()
        stack.push_async_callback(stop_at_once, server)
        await _connected(server)
        poller = open_poller()
        stack.callback(poller.close)
        self._dialer = Dialer(poller)
        self.direct_url = self._notify.url
        self.proxy_url = f"http://{server.addresses[0]}"
        self.admin_url = f"http://{server.admin_addresses[0]}"

    async def confirmed(self, url: str, tries: int) -> int:
        """Try it `tries` times at `url`, each time as another user. Return how many messages came back."""
        left = iter(range(tries))

        async def some() -> int:
            return sum([await self._try(url) for _ in left])

        return sum(await asyncio.gather(*(some() for _ in range(_AT_ONCE))))

    async def _try(self, url: str) -> bool:
        """Return whether `onmessage` receives the user's own message.

        An answer follows the message on the same way, and upstream delivers it to the user. So it shows that
        the message does not come any more.
        """
        chat, user, other = self._new_chat()
        news = asyncio.Event()
        observer = Observer(self._dialer, news.set)
        await observer.open(url, self._notify.token(user))
        await self._say(chat, user, _MESSAGE)
        await self._say(chat, other, _ANSWER)
        await until(
            news, lambda: observer.figures().end is not None or _ANSWER in observer.contents, _ARRIVES
        )
        observer.close()
        return _MESSAGE in observer.contents

    def _new_chat(self) -> tuple[int, int, int]:
        """Return the id of a new chat, and those of its two members."""
        hub = self._notify.hub
        chat = max(hub.chats) + 1
        return chat, hub.join(chat), hub.join(chat)

    async def _say(self, chat: int, sender: int, content: str) -> None:
        """Publish a message, as the chat's server does."""
        from sse_keepalive_proxy.demo.chat import publish

        self._published += 1
        members = self._notify.hub.chats[chat]
        await publish(
            self._client, self._published, chat=chat, members=members, sender=sender, content=content
        )

    # What a pane asks for.

    def _join(self) -> dict[str, Any]:
        """Return a new user, alone in a chat with another one."""
        chat, user, _ = self._new_chat()
        return {"chat_id": chat, "user_id": user, "access_token": self._notify.token(user)}


@contextlib.asynccontextmanager
async def incident() -> AsyncIterator[Incident]:
    """Run all parts. Raises `Missing`."""
    async with contextlib.AsyncExitStack() as stack:
        parts = Incident()
        await parts.start(stack)
        yield parts


async def stop_at_once(server: Server) -> None:
    """Stop a proxy without waiting for its streams."""
    hurry = asyncio.Event()
    hurry.set()
    await server.drain(hurry)


async def _connected(server: Server) -> None:
    """Wait until the bridge of a proxy has its connection. Raises `Missing`."""
    give_up_at = asyncio.get_running_loop().time() + _ARRIVES
    while not server.metrics.registry.get_sample_value("sse_proxy_bridge_connected", {"route": "events"}):
        if asyncio.get_running_loop().time() > give_up_at:
            raise Missing(f"the proxy has no connection to NATS after {_ARRIVES:.0f} s")
        await asyncio.sleep(_LOOK)
