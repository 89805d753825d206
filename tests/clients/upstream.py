"""The scripted upstream: every protocol in every scene, chosen by the path `/SCENE/PROTOCOL/…`.

The client library knows nothing of it: the path is part of the base URL that it is given.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl

from tests.clients.protocols import Protocol, blocks, error_body, error_frame
from tests.support.http1 import LAST_CHUNK, Request, chunk, response, stream_head
from tests.support.raw_upstream import RawUpstream, UpstreamConnection

__all__ = ["BORNE", "ERRORS", "KEEPALIVE", "QUIET", "Scene", "Upstream"]

KEEPALIVE = 0.3  # seconds; the proxy's interval
SILENCE = 4 * KEEPALIVE
LATE = 3 * KEEPALIVE  # when a late refusal comes


class Scene(StrEnum):
    """What happens to a stream."""

    WHOLE = "whole"  # it comes at once
    FIRST = "first"  # silence before the first event
    MIDDLE = "middle"  # silence in mid-stream
    COMMENTS = "comments"  # upstream itself sends comments
    HALF = "half"  # silence in the middle of an event
    TAIL = "tail"  # the last event lacks its blank line
    CUT = "cut"  # upstream's connection is lost in mid-stream
    AGED = "aged"  # the proxy ends it, by `max_age`
    REFUSED = "refused"  # 401 after a while
    LATE_401 = "late-401"  # the same, after an early commit
    LATE_500 = "late-500"
    # What a client bears, played without the proxy.
    BLANK = "blank"
    NEWLINE = "newline"
    NAMED = "named"
    TOLD = "told"


QUIET = (Scene.WHOLE, Scene.FIRST, Scene.MIDDLE, Scene.COMMENTS, Scene.HALF, Scene.TAIL)
ERRORS = (Scene.CUT, Scene.AGED, Scene.REFUSED, Scene.LATE_401, Scene.LATE_500)
BORNE = (Scene.BLANK, Scene.NEWLINE, Scene.NAMED, Scene.TOLD)

_LOST = (Scene.CUT, Scene.AGED, Scene.TOLD)  # a client may come back after these
_STATUS = {Scene.REFUSED: 401, Scene.LATE_401: 401, Scene.LATE_500: 500}
_REASON = {401: "401 Unauthorized", 500: "500 Internal Server Error"}
_ANYONE = "access-control-allow-origin: *"


class Upstream(RawUpstream):
    """`requests` holds one request of each kind, for what its head says of the client."""

    def __init__(self) -> None:
        super().__init__(self._serve)
        self.requests: list[Request] = []
        self._sessions: dict[str, asyncio.Queue[bytes]] = {}
        self._numbers = itertools.count(1)
        self._targets: Counter[str] = Counter()

    async def _serve(self, connection: UpstreamConnection) -> None:
        while True:
            request = await connection.next_request(within=3600)
            if request.target.count("/") == 1:  # the page of a browser's script, of the origin of its streams
                await connection.send(response("200 OK", b"<!doctype html>", "content-type: text/html"))
                continue
            self.requests.append(request)
            _, scene, protocol, *_ = request.target.partition("?")[0].split("/")
            await self._answer(connection, request, Scene(scene), Protocol(protocol))

    async def _answer(
        self, connection: UpstreamConnection, request: Request, scene: Scene, protocol: Protocol
    ) -> None:
        if protocol in (Protocol.MCP, Protocol.MCP_SSE):
            await _Mcp(connection, request, scene, self._sessions, self._numbers).answer()
        elif status := _STATUS.get(scene):
            await asyncio.sleep(LATE)
            await connection.send(_refusal(protocol, status))
        else:
            await connection.send(stream_head(_ANYONE))
            self._targets[request.target] += 1
            query = dict(parse_qsl(request.target.partition("?")[2]))
            had = int(
                request.header("last-event-id") or query.get("lastEventId") or 0
            )  # a polyfill has a cursor
            if had == 0 and self._targets[request.target] > 1 and scene in _LOST:
                had = 1
            await _play(connection, scene, protocol, had)


def _refusal(protocol: Protocol, status: int) -> bytes:
    body = error_body(protocol, status)
    return response(_REASON[status], body, "content-type: application/json", _ANYONE)


async def _play(connection: UpstreamConnection, scene: Scene, protocol: Protocol, had: int) -> None:
    """Send the stream of a scene, and its end; to a client that comes back, what follows the block `had`."""
    whole = blocks(protocol)[had:]
    if had:
        await connection.send(b"".join(map(chunk, whole)))
        await asyncio.sleep(3600 if not whole else 0)  # a server that has nothing new says nothing
        await connection.send(LAST_CHUNK)
        return
    first, rest = whole[0], whole[1:]

    async def send(*data: bytes) -> None:
        await connection.send(b"".join(map(chunk, data)))

    match scene:
        case Scene.FIRST:
            await asyncio.sleep(SILENCE)
            await send(*whole)
        case Scene.MIDDLE | Scene.AGED:
            await send(first)
            await asyncio.sleep(SILENCE if scene is Scene.MIDDLE else 3600)
            await send(*rest)
        case Scene.COMMENTS:
            for block in whole:
                await asyncio.sleep(KEEPALIVE / 2)
                await send(b": upstream\n\n", block)
        case Scene.HALF:
            line, end, left = rest[0].partition(b"\n")
            await send(first, line + end)
            await asyncio.sleep(1 + SILENCE)
            await send(left, *rest[1:])
        case Scene.TAIL:
            await send(*whole[:-1], whole[-1].rstrip())
        case Scene.CUT:
            await send(first)
            await asyncio.sleep(KEEPALIVE)
            connection.close()
            return
        case Scene.TOLD:
            await send(first, error_frame(protocol))
            connection.close()
            return
        case _:
            before, behind = _INJECTED.get(scene, (b"", b""))
            await send(before, *(block + behind for block in whole))
    await connection.send(LAST_CHUNK)


_NAMED = b'event: connection_confirmed\ndata: {"type":"connection_confirmed"}\n\n'
_INJECTED = {
    Scene.BLANK: (b":ok\n\n", b":ping\n\n"),
    Scene.NEWLINE: (b":ok\n", b":ping\n"),
    Scene.NAMED: (_NAMED, _NAMED),
}


class _Mcp:
    """One request to an MCP server that has one tool."""

    def __init__(
        self,
        connection: UpstreamConnection,
        request: Request,
        scene: Scene,
        sessions: dict[str, asyncio.Queue[bytes]],
        numbers: Iterator[int],
    ) -> None:
        self._connection, self._request, self._scene = connection, request, scene
        self._sessions, self._numbers = sessions, numbers

    async def answer(self) -> None:
        _, _, rest = self._request.target.lstrip("/").split("/", 2)
        path, _, query = rest.partition("?")
        match self._request.method, path:
            case "POST", "mcp":
                await self._streamable(json.loads(self._request.body))
            case "GET", "mcp":
                await self._events_of_the_server()
            case "GET", "sse":
                await self._old_stream()
            case "POST", "messages":
                await self._old_message(query.removeprefix("session="), json.loads(self._request.body))
            case _:
                await self._connection.send(response("405 Method Not Allowed", b"", _ANYONE))

    async def _streamable(self, message: dict[str, Any]) -> None:
        send = self._connection.send
        method = message.get("method", "")
        if "id" not in message:
            await send(response("202 Accepted"))
        elif method == "initialize":
            session = f"session-{next(self._numbers)}"
            self._sessions[session] = asyncio.Queue()
            await send(stream_head(f"mcp-session-id: {session}"))
            await send(chunk(_message(_initialized(message))) + LAST_CHUNK)
        elif self._request.header("mcp-session-id") not in self._sessions:
            await send(response("400 Bad Request", _json({"error": "no such session"})))
        elif method != "tools/call":
            await send(stream_head())
            await send(chunk(_message(_result(message))) + LAST_CHUNK)
        elif status := _STATUS.get(self._scene):
            await asyncio.sleep(LATE)
            await send(_refusal(Protocol.MCP, status))
        else:
            await send(stream_head())
            await self._call(message, lambda data: send(chunk(data)))
            if self._scene is Scene.CUT:
                self._connection.close()
            else:
                await send(LAST_CHUNK)

    async def _call(self, message: dict[str, Any], send: Any) -> None:
        """The progress and the result of the tool, in the manner of the scene."""
        before, behind = _INJECTED.get(self._scene, (b"", b""))
        progress, result = _message(_progress(message)), _message(_result(message))
        pause = SILENCE if self._scene in (Scene.FIRST, Scene.MIDDLE) else 2 * KEEPALIVE
        await asyncio.sleep(pause if self._scene is Scene.FIRST else 0)
        await send(before + progress + behind)
        match self._scene:
            case Scene.AGED:
                await asyncio.sleep(3600)
            case Scene.CUT:
                await asyncio.sleep(KEEPALIVE)
                return
            case Scene.COMMENTS:
                await send(b": upstream\n\n")
                await asyncio.sleep(pause)
            case Scene.HALF:
                line, end, result = result.partition(b"\n")
                await send(line + end)
                await asyncio.sleep(1 + SILENCE)
            case Scene.TOLD:
                result = _message({"error": {"code": -32603, "message": "upstream says 500"}}, message)
            case _:
                await asyncio.sleep(pause)
        await send(result + behind)

    async def _events_of_the_server(self) -> None:
        """The stream of what the server itself has to say: one log message, early in a long silence."""
        await self._connection.send(stream_head())
        await asyncio.sleep(KEEPALIVE / 3)
        log = {"method": "notifications/message", "params": {"level": "info", "data": "hello"}}
        before, behind = _INJECTED.get(self._scene, (b"", b""))
        await self._connection.send(chunk(before + _message(log) + behind))
        await asyncio.sleep(3600)

    async def _old_stream(self) -> None:
        session = f"session-{next(self._numbers)}"
        queue = self._sessions[session] = asyncio.Queue()
        if status := _STATUS.get(self._scene):
            await asyncio.sleep(LATE)
            await self._connection.send(_refusal(Protocol.MCP_SSE, status))
            return
        before, behind = _INJECTED.get(self._scene, (b"", b""))
        folder = "/".join(self._request.target.split("/")[:3])
        await self._connection.send(stream_head())
        endpoint = f"event: endpoint\ndata: {folder}/messages?session={session}\n\n".encode()
        await self._connection.send(chunk(before + endpoint + behind))
        while data := await queue.get():
            await self._connection.send(chunk(data))
        self._connection.close()

    async def _old_message(self, session: str, message: dict[str, Any]) -> None:
        queue = self._sessions[session]
        await self._connection.send(response("202 Accepted", b"Accepted"))
        if message.get("method") == "tools/call":

            async def send(data: bytes) -> None:
                queue.put_nowait(data)

            await self._call(message, send)
            if self._scene is Scene.CUT:
                queue.put_nowait(b"")
        elif "id" in message:
            initialize = message["method"] == "initialize"
            queue.put_nowait(_message(_initialized(message) if initialize else _result(message)))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _message(value: dict[str, Any], answered: dict[str, Any] | None = None) -> bytes:
    number = {} if answered is None else {"id": answered["id"]}
    return b"event: message\ndata: " + _json({"jsonrpc": "2.0", **number, **value}) + b"\n\n"


def _initialized(message: dict[str, Any]) -> dict[str, Any]:
    result = {
        "protocolVersion": message["params"]["protocolVersion"],
        "capabilities": {"tools": {}, "logging": {}},
        "serverInfo": {"name": "scripted", "version": "1"},
    }
    return {"id": message["id"], "result": result}


def _result(message: dict[str, Any]) -> dict[str, Any]:
    if message["method"] == "tools/call":
        content = [{"type": "text", "text": "three"}]
        return {"id": message["id"], "result": {"content": content, "isError": False}}
    tool = {"name": "count", "description": "counts", "inputSchema": {"type": "object"}}
    result = {"tools": [tool]} if message["method"] == "tools/list" else {}
    return {"id": message["id"], "result": result}


def _progress(message: dict[str, Any]) -> dict[str, Any]:
    token = message["params"].get("_meta", {}).get("progressToken", 0)
    params = {"progressToken": token, "progress": 1, "total": 3, "message": "one"}
    return {"method": "notifications/progress", "params": params}
