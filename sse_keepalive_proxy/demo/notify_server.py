"""A stand-in for notify-server: its HTTP surface to the byte (facts.md#notify-server-http), with knobs that
make it worse.

It runs inside an event loop (`NotifyServer`), for `sse-keepalive-proxy demo` and for tests, or as a process:
`python -m sse_keepalive_proxy.demo.notify_server --port 6687 --mode silent`. The process prints one JSON line
with its URL and a token, and ends at once on SIGTERM.

The paths under /demo/ do not exist in notify-server. They need no token:

    …                     the given pages, so that a page can read the stream from its own origin
    GET  /demo/token      ?user_id=2&lifetime=1800 (seconds, negative: expired)
    GET  /demo/state      open streams, counts, knobs
    POST /demo/publish    {"subject": "fechatter.message.new", "payload": {…}}, as from NATS
    POST /demo/knobs      {"header_delay": 5} (see `knobs.Knobs`); {"action": "close_streams"}

It dies as notify-server does. It freezes (facts.md#notify-server-freeze), unless the knob `freezes` is
false, and then answers only under /demo/. It aborts (facts.md#notify-server-abort): the process ends with
SIGABRT, and a `NotifyServer` in an event loop stops listening and cuts every connection. It has no metrics
port.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import sys
import time
import urllib.parse
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, cast

from aiohttp import web

from sse_keepalive_proxy.demo import frames
from sse_keepalive_proxy.demo.answers import (
    Handler,
    as_hyper_writes,
    healthy,
    json_body,
    method_not_allowed,
    nowhere,
    online_user,
    only,
    text,
)
from sse_keepalive_proxy.demo.event_stream import reset, respond
from sse_keepalive_proxy.demo.hub import DEFAULT_CHATS, Aborted, Hub, Mode, Outcome, Signal, cuts_a_character
from sse_keepalive_proxy.demo.knobs import Action, Knobs, changed
from sse_keepalive_proxy.demo.openings import Openings
from sse_keepalive_proxy.demo.tokens import LEEWAY, LIFETIME, TokenRefused, Tokens, new_tokens
from sse_keepalive_proxy.serve.bind import raise_descriptor_limit

__all__ = ["NotifyServer"]

# Seconds that a token must have left.
_LEFT = {Mode.SILENT: 240.0, Mode.FIXED: -LEEWAY, Mode.HEALTHY: -LEEWAY}


class NotifyServer:
    """The stand-in.

    `chats`: the ids of the members of each chat. `tokens`: to share keys with another instance.
    `wall_ns`: nanoseconds since the epoch, for timestamps in frames. `pages`: handlers of further paths
    under /demo/. `abort`: to end the process. Without it, an abort cuts every connection.
    """

    def __init__(
        self,
        mode: Mode | str = Mode.SILENT,
        *,
        chats: Mapping[int, Collection[int]] = DEFAULT_CHATS,
        knobs: Knobs | None = None,
        tokens: Tokens | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
        pages: Mapping[str, Handler] = MappingProxyType({}),
        abort: Callable[[], None] | None = None,
    ) -> None:
        self.knobs = knobs or Knobs()
        self.tokens = tokens or new_tokens()
        self.hub = Hub(Mode(mode), chats, now=time.monotonic, wall_ns=wall_ns)
        self.hub.freezes = self.knobs.freezes
        self.host = "127.0.0.1"
        self.port = 0
        self._wall_ns = wall_ns
        self._pages = pages
        self._abort = abort or self._cut
        self._openings = Openings()
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """`http://HOST:PORT`, without a path."""
        return f"http://{self.host}:{self.port}"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen. Port 0 means a free port. Raises `OSError`."""
        self.hub.start_over()
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            # Otherwise a stream would stay open after its client has left, and keep the user's place.
            handler_cancellation=True,
            shutdown_timeout=0.05,
        )
        await self._runner.setup()
        accept = cast(web.Server, self._runner.server)
        try:
            self._listener = await asyncio.get_running_loop().create_server(accept, host, port, backlog=1024)
        except OSError:
            await self.stop()
            raise
        self.host, self.port = host, self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop at once and break every connection. It can be started again, also on the same port."""
        self._cut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _cut(self) -> None:
        """Stop listening, and end every connection without another byte, as a process that ends."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._runner is not None and self._runner.server is not None:
            for connection in self._runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()

    def token(self, user_id: int = 2, *, lifetime: float = LIFETIME) -> str:
        """Return a token for a user. `lifetime` is in seconds."""
        return self.tokens.issue(user_id, lifetime=lifetime)

    def publish(self, subject: str, payload: Mapping[str, Any]) -> Outcome:
        """Take a message as from NATS."""
        try:
            return self.hub.handle(subject, payload)
        except Aborted:
            self._abort()
            return Outcome(dropped=True)

    def set_knobs(self, **values: Any) -> None:
        """Change knobs while running. Raises `ValueError`."""
        self.knobs = changed(self.knobs, values)
        self.hub.freezes = self.knobs.freezes
        self.hub.look()

    def close_streams(self) -> int:
        """End every open stream cleanly. Return the number of streams."""
        return self.hub.end_all(Signal.END)

    def reset_streams(self) -> int:
        """End every open stream with RST. Return the number of streams."""
        return self.hub.end_all(Signal.RESET)

    def state(self) -> dict[str, Any]:
        """Return the values of `GET /demo/state`."""
        return {**self.hub.state(), "knobs": dataclasses.asdict(self.knobs)}

    async def wait_open(self, count: int) -> None:
        """Wait until exactly `count` streams are open. It has no time limit of its own."""
        while len(self.hub.streams) != count:
            self.hub.changed.clear()
            await self.hub.changed.wait()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._or_frozen])
        app.on_response_prepare.append(as_hyper_writes)
        for path in ("/", "/health", "/ready", "/live"):
            app.router.add_route("*", path, only("GET", healthy))
        app.router.add_route("*", "/events", self._events)
        app.router.add_route("*", "/online-users", only("GET", self._online_users))
        app.router.add_route("*", "/sse/health", only("GET", self._sse_health))
        for path, page in self._pages.items():
            app.router.add_route("*", path, page)
        app.router.add_route("*", "/demo/token", only("GET", self._demo_token))
        app.router.add_route("*", "/demo/state", only("GET", self._demo_state))
        app.router.add_route("*", "/demo/publish", only("POST", self._demo_publish))
        app.router.add_route("*", "/demo/knobs", only("POST", self._demo_knobs))
        app.router.add_route("*", "/{path:.*}", nowhere)
        return app

    @web.middleware
    async def _or_frozen(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/demo/"):
            await self.hub.unless_frozen()
        return await handler(request)

    # The stream.

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if request.transport is None:
            return web.Response()  # the client has left already
        if self.knobs.refuse:
            reset(request.transport)
            return web.Response()
        query = urllib.parse.parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
        given = [value for name, value in query if name == "access_token"]
        if len(given) != 1:
            fault = "duplicate" if given else "missing"
            return text(
                401,
                "Failed to parse access_token from query: "
                f"Failed to deserialize query string: {fault} field `access_token`",
            )
        try:
            claims = self._verified(given[0])
        except TokenRefused as refused:
            if cuts_a_character(given[0]):
                self._abort()
            return text(401, str(refused))
        if request.method not in ("GET", "HEAD"):
            return method_not_allowed("GET,HEAD")
        if (status := self.knobs.status) is not None:
            await asyncio.sleep(self.knobs.header_delay)
            return text(status, "")
        return await self._stream(request, request.transport, claims["user"]["id"])

    async def _stream(
        self, request: web.Request, transport: asyncio.Transport, user_id: int
    ) -> web.StreamResponse:
        stream = self.hub.open(user_id)  # the user is registered before the database is asked
        try:
            if self.hub.mode is not Mode.HEALTHY:
                await self._openings.take_turn(self.knobs.opening_cost)
            await asyncio.sleep(self.knobs.header_delay)
            await self.hub.unless_frozen()
            return await respond(request, transport, stream, self.hub, lambda: self.knobs)
        finally:
            self.hub.close(stream)

    def _verified(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that this build accepts. Raises `TokenRefused`."""
        return self.tokens.verify(token, left=_LEFT[self.hub.mode])

    # The other routes of notify-server.

    def _bearer(self, request: web.Request) -> dict[str, Any]:
        """Return the claims of the `Authorization` header.

        Raises `TokenRefused`, or `LookupError` with the text of the 401.
        """
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise LookupError(
                "Failed to parse Authorization header: Header of type `authorization` was missing"
            )
        return self._verified(token.strip())

    async def _online_users(self, request: web.Request) -> web.StreamResponse:
        try:
            claims = self._bearer(request)
        except (LookupError, TokenRefused) as refused:
            return text(401, str(refused))
        me = claims["user"]["id"]
        chat = request.query.get("chat_id")
        chats = self.hub.chats_of(me) if chat is None else [int(chat)] if chat.isdigit() else []
        members = {user for chat_id in chats for user in self.hub.chats.get(chat_id, ())}
        if chat is not None and me not in members:
            return text(401, "Not a member of this chat")
        now = frames.rfc3339(self._wall_ns())
        online = sorted({stream.user_id for stream in self.hub.of_users(members)})
        return json_body([online_user(user, now) for user in online if chat is not None or user != me])

    async def _sse_health(self, request: web.Request) -> web.StreamResponse:
        try:
            self._bearer(request)
        except (LookupError, TokenRefused) as refused:
            return text(401, str(refused))
        return json_body(
            {
                "status": "healthy",
                "service": "notify_server",
                "transport": "sse",
                "timestamp": frames.rfc3339(self._wall_ns()),
                "connected_users": len({stream.user_id for stream in self.hub.streams}),
                "active_chats": len(self.hub.chats),
            }
        )

    # The stand-in's own routes.

    async def _demo_token(self, request: web.Request) -> web.StreamResponse:
        try:
            user_id = int(request.query.get("user_id", "2"))
            lifetime = float(request.query.get("lifetime", LIFETIME))
        except ValueError as error:
            return text(400, str(error))
        return json_body({"user_id": user_id, "access_token": self.token(user_id, lifetime=lifetime)})

    async def _demo_state(self, _: web.Request) -> web.StreamResponse:
        return json_body(self.state())

    async def _demo_publish(self, request: web.Request) -> web.StreamResponse:
        try:
            message = json.loads(await request.read())
            subject, payload = message["subject"], message["payload"]
        except (ValueError, KeyError, TypeError):
            return text(400, 'this takes {"subject": "fechatter.…", "payload": {…}}')
        return json_body(dataclasses.asdict(self.publish(str(subject), payload)))

    async def _demo_knobs(self, request: web.Request) -> web.StreamResponse:
        try:
            values = dict(json.loads(await request.read()))
            action = values.pop("action", None)
            todo = Action(action) if action is not None else None
            self.set_knobs(**values)
        except (ValueError, TypeError) as error:
            return text(400, str(error))
        match todo:
            case Action.CLOSE_STREAMS:
                self.close_streams()
            case Action.RESET_STREAMS:
                self.reset_streams()
            case None:
                pass
        return json_body(dataclasses.asdict(self.knobs))


async def _serve(host: str, port: int, server: NotifyServer, user_id: int) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await server.start(host, port)
    ready = {"url": server.url, "mode": server.hub.mode, "user_id": user_id, "token": server.token(user_id)}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    await ended.wait()
    await server.stop()


def main(arguments: list[str] | None = None) -> int:
    """Run the stand-in as a program."""
    parser = argparse.ArgumentParser(
        prog="python -m sse_keepalive_proxy.demo.notify_server", description="A stand-in for notify-server."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback only)")
    parser.add_argument("--port", type=int, default=6687, help="the port; 0 is a free port (default: 6687)")
    parser.add_argument("--mode", choices=[mode.value for mode in Mode], default=Mode.SILENT.value)
    parser.add_argument("--user-id", type=int, default=2, help="the user of the printed token (default: 2)")
    parser.add_argument("--knobs", type=json.loads, default={}, help='JSON, e.g. {"ping_interval": 5}')
    options = parser.parse_args(arguments)
    try:
        knobs = changed(Knobs(), options.knobs)
    except ValueError as error:
        parser.error(str(error))
    raise_descriptor_limit()
    server = NotifyServer(options.mode, knobs=knobs, abort=os.abort)
    asyncio.run(_serve(options.host, options.port, server, options.user_id))
    return 0


if __name__ == "__main__":
    sys.exit(main())
