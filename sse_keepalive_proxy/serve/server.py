"""Run one instance from start to exit: bind, serve, reload, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

from sse_keepalive_proxy.build import BUILD, INTERPRETED
from sse_keepalive_proxy.config import ListenAddress, Settings, to_yaml
from sse_keepalive_proxy.gateway.app import Proxy
from sse_keepalive_proxy.http.frontend import Frontend
from sse_keepalive_proxy.net.listener import Listener
from sse_keepalive_proxy.net.poller import open_poller
from sse_keepalive_proxy.observe import log
from sse_keepalive_proxy.observe.admin import Phase, Silence, admin_frontend, admin_handler
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.registry import Registry, Spread
from sse_keepalive_proxy.serve.activation import HandedOver, handed_over
from sse_keepalive_proxy.serve.bind import (
    FileIdentity,
    bind,
    describe,
    file_of,
    forget,
    raise_descriptor_limit,
)
from sse_keepalive_proxy.serve.reload import Reloader
from sse_keepalive_proxy.serve.source import Source
from sse_keepalive_proxy.stream.messages import CloseReason

__all__ = ["Server", "run"]

logger = logging.getLogger("sse_keepalive_proxy.serve")

_TICK = 0.5
_LOOK = 0.05
_LAST_WORDS = 2.0
"""Seconds between the end of the last streams and `drain.timeout`: time for the end of a block, and for the
clients to take their last bytes. A short timeout leaves a fifth of it.
"""
_RETURN = 5.0
"""Seconds: the longest `retry` of a client whose stream the proxy has ended."""

_SPARE = 72
"""Descriptors not used for streams, so that a refused client still gets an answer."""


class Server:
    """One instance. Call `start`, then `drain`. It listens on `addresses` and `admin_addresses`.

    `source` is the origin of `settings`; without one there are no reloads. `given` are the listening sockets
    that were handed over.
    """

    def __init__(
        self, settings: Settings, source: Source | None = None, given: HandedOver | None = None
    ) -> None:
        self._settings = settings
        self._given = given or HandedOver()
        self._loop = asyncio.get_running_loop()
        self._poller = open_poller()
        self._descriptors = raise_descriptor_limit()
        self._room = 0
        self.streams = Registry(0, None)
        self._limit_streams(settings)
        self.metrics = Metrics(self.streams, self._loop.time)
        self.phase = Phase.STARTING
        self.addresses: list[str] = []
        self.admin_addresses: list[str] = []
        self._listeners: list[Listener] = []
        self._bound: list[tuple[ListenAddress, FileIdentity]] = []
        self._admin_bound: tuple[ListenAddress, FileIdentity] | None = None
        self._admin: Frontend | None = None
        self._admin_listeners: list[Listener] = []
        self._proxy: Proxy | None = None
        self._tick_due = 0.0
        self._ticker: asyncio.TimerHandle | None = None
        self._reloader = Reloader(
            source,
            in_force=lambda: self._settings,
            adopt=self._adopt,
            metrics=self.metrics,
            later=self._loop.call_later,
        )
        self.reload = self._reloader.reload

    async def start(self) -> None:
        """Listen, and become ready. Raises `CannotListen` or `ConfigurationError`, and then leaves nothing
        open.
        """
        self._compare_with_descriptors()
        try:
            await self._listen()
        except BaseException:
            await self._close_all()
            raise
        finally:
            self._given.close()
        self._tick_due = self._loop.time()
        self._tick()
        self.phase = Phase.READY
        self._reloader.start()
        if BUILD == "partly compiled":
            logger.warning(BUILD, extra={"fields": {"interpreted": ",".join(INTERPRETED)}})
        logger.info(
            "ready",
            extra={
                "fields": {
                    "listen": ",".join(self.addresses),
                    "admin": ",".join(self.admin_addresses) or "off",
                    "build": BUILD,
                }
            },
        )

    async def _listen(self) -> None:
        self._proxy = Proxy(self._settings, self.metrics, self.streams, self._poller, self._descriptors)
        await self._proxy.adopt(self._settings)
        for address in self._settings.listen:
            sockets = bind(address, "listen", self._given, reuse_port=self._settings.reuse_port)
            self._bound.append((address, file_of(address)))
            for sock in sockets:
                self.addresses.append(str(address) if address.unix_path else describe(sock))
                self._listeners.append(self._proxy.frontend.listen(self._poller, sock))
        admin = self._settings.admin
        if admin is None:
            return
        handler = admin_handler(
            metrics=self.metrics,
            streams=self.streams,
            config_yaml=lambda: to_yaml(self._settings),
            pages=admin.pages,
            phase=lambda: self.phase,
            upstream=self._upstream,
        )
        self._admin = admin_frontend(handler)
        for sock in bind(admin.listen, "admin.listen", self._given, reuse_port=self._settings.reuse_port):
            self.admin_addresses.append(str(admin.listen) if admin.listen.unix_path else describe(sock))
            self._admin_bound = admin.listen, file_of(admin.listen)
            self._admin_listeners.append(self._admin.listen(self._poller, sock))

    def _upstream(self, name: str) -> Silence | None:
        upstream = self._settings.upstreams.get(name)
        seconds = None if self._proxy is None else self._proxy.silence_of(name)
        return None if upstream is None or seconds is None else Silence(seconds, upstream.frozen_after)

    def _limit_streams(self, settings: Settings) -> None:
        """Set the limits of streams. Each client may need a second descriptor, to upstream. If a route holds
        upstream without a client (`leave.hold`, `share.linger`), up to a quarter of the descriptors are for
        that.
        """
        limits, descriptors = settings.limits, max(self._descriptors - _SPARE, 4)
        held = min(limits.max_held, descriptors // 4)
        streams = [route.stream for route in settings.routes if route.stream is not None]
        holds = any(
            stream.leave.hold or stream.leave.publish or (stream.share and stream.share.by)
            for stream in streams
        )
        self._room = (descriptors - held if holds else descriptors) // 2
        self.streams.limit = min(limits.max_streams, self._room)
        self.streams.per_client = limits.max_streams_per_client
        self.streams.held.allow(held)
        self.streams.logs.limit = limits.max_replay

    def _compare_with_descriptors(self) -> None:
        limits = self._settings.limits
        for key, wanted in (("max_streams", limits.max_streams), ("max_connections", limits.max_connections)):
            if wanted > self._room:
                logger.warning(
                    f"limits.{key} is more than the descriptor limit allows; raise `ulimit -n`",
                    extra={"fields": {key: wanted, "allowed": self._room}},
                )

    async def _adopt(self, settings: Settings) -> None:
        """Use `settings` from now on. Open streams keep their old policy. Streams of routes that no longer
        have streams end. Raises `ConfigurationError`, and then changes nothing.
        """
        if self._proxy is None:
            raise AssertionError("`start` comes before a reload")
        await self._proxy.adopt(settings)
        before, self._settings = self._settings, settings
        logging_ = settings.logging
        if logging_ != before.logging:
            log.configure(logging_.level, logging_.format, access=logging_.access)
        self._limit_streams(settings)
        if settings.limits != before.limits:
            self._compare_with_descriptors()
        self._end_streams_of(_stream_routes(before) - _stream_routes(settings))

    def _end_streams_of(self, routes: set[str]) -> None:
        count = sum(stream.route_name in routes for stream in self.streams)
        if not count:
            return
        spread = self._settings.drain.spread
        fields = {"routes": ",".join(sorted(routes)), "streams": count, "spread_s": spread}
        logger.info("streams of removed routes are ended", extra={"fields": fields})
        self.streams.leave(lambda route: route in routes, self._spread(), CloseReason.ROUTE_REMOVED)

    def _spread(self) -> Spread:
        """Return when streams end that must end from now on."""
        now, drain = self._loop.time(), self._settings.drain
        last = drain.timeout - min(_LAST_WORDS, drain.timeout / 5)
        return Spread(now, now + drain.spread, now + last)

    def _forget(self, address: ListenAddress, file: FileIdentity) -> None:
        """Remove a Unix socket, unless it was handed over: the next process will get it too."""
        if address.unix_path is None or not self._given.owns(address.unix_path):
            forget(address, file)

    @property
    def _has_successor(self) -> bool:
        """Whether another process may listen on the same addresses, with sockets of its own."""
        return self._settings.reuse_port and not self._given.any

    def _stop_listening(self) -> None:
        """Stop accepting connections. Remove the file of a Unix socket before its listener closes: after that
        a new process may replace the file. A second call does nothing.
        """
        while self._bound:
            self._forget(*self._bound.pop())
        while self._listeners:
            self._listeners.pop().close(leaves_newcomers=self._has_successor)

    async def drain(self, hurry: asyncio.Event) -> None:
        """End all streams at block boundaries: over `drain.spread` seconds those whose clients come back, the
        others shortly before `drain.timeout`. End every connection after its next answer. Listen until the
        last stream has ended, `drain.spread` at most. Return when no connection is left, after
        `drain.timeout` at the latest, or at once when `hurry` is set. Upstream streams that are held without
        a client end last: they have `_RETURN` more seconds, because a client that opens its stream elsewhere
        may end the harm that they prevent. Those that only wait for a client to come back (`share.linger`)
        have none.
        """
        self.phase = Phase.DRAINING
        await self._reloader.stop()
        drain, proxy = self._settings.drain, self._proxy
        logger.info("draining", extra={"fields": {"streams": len(self.streams), "timeout_s": drain.timeout}})
        spread = self._spread()
        self.streams.drain(spread)
        if proxy is not None:
            proxy.frontend.drain(drain.idle_grace)
            cut_at = self._loop.call_later(drain.spread, proxy.cut_upgraded)
            alone_since: float | None = None
            while (now := self._loop.time()) < spread.now + drain.timeout and not hurry.is_set():
                if not len(self.streams) or now >= spread.until:
                    self._stop_listening()  # accepts the waiting connections, which are still served
                if not proxy.busy:
                    self.streams.held.hurry()
                    alone_since = now if alone_since is None else alone_since
                    if not len(self.streams.held) or now >= alone_since + _RETURN:
                        break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(hurry.wait(), _LOOK)
            cut_at.cancel()
        left = len(self.streams)
        await self._close_all()
        logger.info("stopped", extra={"fields": {"cut": left}})

    async def _close_all(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        self._stop_listening()
        for stream in self.streams:
            stream.cut()
        self.streams.held.allow(0)
        if self._proxy is not None:
            self._proxy.cut_upgraded()
            await self._proxy.frontend.cut()
            await self._proxy.close_bridges()
        if self._admin is not None:
            if self._admin_bound is not None:
                self._forget(*self._admin_bound)
            while self._admin_listeners:
                self._admin_listeners.pop().close(leaves_newcomers=self._has_successor)
            await self._admin.cut()
        self._loop.call_soon(self._poller.close)  # after the callbacks of the connections closed here

    def _tick(self) -> None:
        """Measure the lag of the event loop. Deadlines of streams can be late by this time."""
        now = self._loop.time()
        self.metrics.loop_lag.set(max(now - self._tick_due, 0.0))
        self._tick_due = now + _TICK
        self._ticker = self._loop.call_at(self._tick_due, self._tick)


def _stream_routes(settings: Settings) -> set[str]:
    return {route.name for route in settings.routes if route.stream is not None}


async def run(settings: Settings, source: Source | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once. SIGHUP reloads."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        if stop.is_set() and not hurry.is_set():
            logger.info("second signal: stopping at once")
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log.complain)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    server = Server(settings, source, handed_over(os.environ))
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    await server.start()
    await stop.wait()
    await server.drain(hurry)
