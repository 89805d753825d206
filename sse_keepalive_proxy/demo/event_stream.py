"""One response of the stand-in's `/events`: its head, its frames, its pings and heartbeats."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
import zlib
from collections.abc import Awaitable, Callable

from aiohttp import web

from sse_keepalive_proxy.demo import frames
from sse_keepalive_proxy.demo.hub import Event, Hub, Mode, Signal, Stream
from sse_keepalive_proxy.demo.knobs import Gzip, Knobs

__all__ = ["reset", "respond"]

_Write = Callable[[bytes], Awaitable[None]]


async def respond(
    request: web.Request,
    transport: asyncio.Transport,
    stream: Stream,
    hub: Hub,
    knobs: Callable[[], Knobs],
) -> web.StreamResponse:
    """Serve `stream` until it ends. Each `Signal.LOOK` makes it call `knobs` again."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
    compressor = None
    if _compressed(request, knobs().gzip):
        compressor = zlib.compressobj(wbits=31)
        response.headers["content-encoding"] = "gzip"
    try:
        await response.prepare(request)
    except ConnectionResetError:
        return response  # the client left before the head
    if request.method == "HEAD":
        return response  # as in notify-server, the handler has run, but no client reads the stream
    hub.begin(stream)

    async def write(data: bytes) -> None:
        if compressor is not None:
            data = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        await response.write(data)
        stream.last_byte_at = time.monotonic()

    try:
        if await _pump(stream, hub, knobs, write) is Signal.RESET:
            reset(transport)
        elif compressor is not None:
            await response.write(compressor.flush())
    except ConnectionResetError:
        pass  # the client left in the middle of a write
    return response


async def _pump(stream: Stream, hub: Hub, knobs: Callable[[], Knobs], write: _Write) -> Signal:
    """Write the frames, pings and heartbeats of a stream until its end. Return the kind of end."""
    clock = asyncio.get_running_loop().time
    heartbeat_id = 0
    beat_at = quiet_since = clock()
    while True:
        ping = knobs().ping_interval
        heartbeat = knobs().heartbeat_interval if hub.mode is not Mode.SILENT else None
        ping_at = quiet_since + ping if ping is not None else None
        heartbeat_at = None
        if heartbeat is not None:
            heartbeat_at = beat_at + heartbeat if heartbeat_id else beat_at  # the first one at once
        due_at = min((at for at in (ping_at, heartbeat_at) if at is not None), default=None)
        try:
            async with asyncio.timeout_at(due_at):
                item = await stream.queue.get()
        except TimeoutError:
            quiet_since = clock()
            if due_at == heartbeat_at:
                heartbeat_id += 1
                beat_at = quiet_since
                await write(hub.heartbeat(stream, heartbeat_id))
            else:
                await write(frames.PING)
            continue
        if isinstance(item, bytes):
            quiet_since = clock()
            await write(item)
            if isinstance(item, Event):
                hub.wrote(stream, item)
        elif item is Signal.FREEZE:
            await hub.unless_frozen()
        elif item is not Signal.LOOK:
            return item


def reset(transport: asyncio.Transport) -> None:
    """End a connection with RST (SO_LINGER of zero)."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _compressed(request: web.Request, gzip: Gzip) -> bool:
    match gzip:
        case Gzip.OFF:
            return False
        case Gzip.NEGOTIATED:
            return "gzip" in request.headers.get("Accept-Encoding", "")
        case Gzip.ALWAYS:
            return True
