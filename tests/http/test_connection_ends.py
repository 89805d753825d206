"""How an exchange on a client's connection may end: early, handed over, left, closed, cut.

Real sockets. How it begins and goes on is in `test_connection`.
"""

from __future__ import annotations

import asyncio
import gc

import pytest
from aiohttp import web

from sse_keepalive_proxy.errors import BodyInvalid, RequestBodyError
from sse_keepalive_proxy.http import connection as module
from sse_keepalive_proxy.http import lingering
from sse_keepalive_proxy.http.chunked import ChunkedDecoder
from sse_keepalive_proxy.http.connection import ClientConnection
from sse_keepalive_proxy.http.frontend import Handler
from sse_keepalive_proxy.http.head import HeadReader
from sse_keepalive_proxy.http.lingering import Lingering
from tests.http.serving import Held, Serving, echo
from tests.support.http1 import request, response
from tests.support.running import on_each_loop, soon
from tests.support.sockets import Ending

NEVER = 3600.0
SHORT = 0.05
UPLOAD = b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


# A body.


@on_each_loop
async def test_a_body_that_is_not_read_waits_in_its_client_until_it_is_read() -> None:
    go, asked_for = asyncio.Event(), []

    async def slow(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        asked_for.append(asked)
        await go.wait()
        return await echo(connection, asked)

    sent = b"0123456789abcdef" * 500_000
    async with Serving(slow) as serving, await serving.client() as client:
        client.send(UPLOAD % len(sent) + sent)
        served = await serving.served()
        await soon(lambda: served.transport is not None and not served.transport.is_reading())
        (asked,) = asked_for
        assert asked.content.total_bytes < len(sent) // 4
        go.set()
        assert (await client.wait_response()).body == b"/up" + sent
        client.send(request("/2"))
        await client.wait_for(lambda client: len(client.responses) == 2)


@on_each_loop
async def test_the_reader_of_a_body_that_breaks_off_gets_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "_LINGERING", SHORT)
    taken: list[bytes] = []

    async def reading(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        taken.append(await asked.content.readexactly(3))
        with pytest.raises(BodyInvalid):
            await asked.content.readany()
        connection.write(response("400 Bad Request"))
        return True

    async with Serving(reading) as serving, await serving.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await soon(lambda: taken)
        client.send(b"zz\r\n")
        assert await client.wait_end() is Ending.EOF
        assert client.response.status == 400
        await serving.until_gone()


# An answer before the body is whole.


async def early(connection: ClientConnection, asked: web.BaseRequest) -> bool:
    """An answer that waits for no body."""
    connection.write(response("413 Content Too Large", b"enough"))
    return True


@on_each_loop
async def test_an_early_answer_arrives_though_its_client_goes_on_sending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "_LINGERING", NEVER)
    async with Serving(early) as serving, await serving.client() as client:
        client.send(UPLOAD % 5_000_000 + b"x" * 4_999_999)
        assert await client.wait_end() is Ending.EOF
        assert client.body == b"enough"
        await soon(lambda: not client.transport.get_write_buffer_size())
        assert len(serving.frontend.connections) == 1
        client.send(b"x")  # the last byte of the body, and so of the connection
        await serving.until_gone()


@pytest.mark.parametrize("fails", [False, True], ids=["Connection: close", "500"])
@on_each_loop
async def test_a_last_answer_arrives_though_its_client_goes_on_asking(fails: bool) -> None:
    async def last(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        if fails:
            raise RuntimeError("planned")
        connection.write(response(body=b"bye"))
        return False

    async with Serving(last) as serving, await serving.client() as client:
        client.send(request("/1") + request("/2") * 200_000)
        assert await client.wait_end() is Ending.EOF
        assert client.response.status == (500 if fails else 200)


@on_each_loop
async def test_a_last_answer_has_the_time_that_its_client_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "_LINGERING", SHORT)
    whole = b"x" * 8_000_000

    async def last(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        connection.write(response(body=whole))
        return False

    async with Serving(last) as serving, await serving.client() as client:
        client.pause()
        client.send(request("/1") + request("/2"))
        await soon(lambda: any(isinstance(each, Lingering) for each in serving.frontend.connections))
        (last_one,) = serving.frontend.connections
        assert isinstance(last_one, Lingering)
        closes_at = last_one._closes_at
        await soon(lambda: last_one._closes_at > closes_at)
        client.resume()
        assert await client.wait_end() is Ending.EOF
        assert client.response.complete
        assert len(client.body) == len(whole)


@on_each_loop
async def test_a_client_that_does_not_read_its_last_answer_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "_LINGERING", SHORT)
    monkeypatch.setattr(lingering, "SEND_TIMEOUT", 2 * SHORT)

    async def last(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        connection.write(response(body=b"x" * 8_000_000))
        return False

    async with Serving(last) as serving, await serving.client() as client:
        client.pause()
        await serving.served()
        client.send(request("/1") + request("/2"))
        await serving.until_gone()


@on_each_loop
async def test_a_body_that_is_unfinished_after_its_answer_is_read_for_a_limited_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "_LINGERING", SHORT)
    async with Serving(early) as serving, await serving.client() as client:
        client.send(UPLOAD % 10 + b"x")
        assert await client.wait_end() is Ending.EOF
        assert client.body == b"enough"
        await serving.until_gone()


@on_each_loop
async def test_a_client_that_leaves_after_an_early_answer_leaves_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "_LINGERING", NEVER)
    async with Serving(early) as serving, await serving.client() as client:
        client.send(UPLOAD % 10 + b"x")
        await client.wait_end()
        await client.close()
        await serving.until_gone()


# Handed over.


class Taker(asyncio.Protocol):
    """Whoever a transport is given to."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True


@on_each_loop
async def test_a_connection_is_handed_over_with_the_bytes_after_its_request() -> None:
    go, taker, rests = asyncio.Event(), Taker(), []

    async def handing(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        await go.wait()
        transport, rest = connection.hand_over(taker)
        rests.append(rest)
        assert connection.transport is None
        transport.write(b"taken")
        return True

    async with Serving(handing) as serving, await serving.client() as client:
        client.send(request("/1") + b"\x81\x00 no request")
        served = await serving.served()
        await soon(lambda: served.transport is not None and not served.transport.is_reading())
        client.send(b" and more")
        go.set()
        await client.wait_for(lambda client: client.received == b"taken")
        await soon(lambda: taker.received == b" and more")
        assert rests == [b"\x81\x00 no request"]
        assert not serving.frontend.connections
        await client.close()
        await soon(lambda: taker.lost)


@on_each_loop
async def test_after_the_client_has_left_writing_and_handing_over_raise() -> None:
    refusals: list[str] = []

    async def late(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        try:
            await asyncio.Event().wait()
        finally:
            for doing in (lambda: connection.hand_over(Taker()), lambda: connection.write(b"x")):
                with pytest.raises(ConnectionError):
                    doing()
                refusals.append("at once")
            with pytest.raises(ConnectionError):
                await connection.drained()
            refusals.append("drained")
        return True

    async with Serving(late) as serving:
        async with await serving.client() as client:
            client.send(request("/1"))
            await soon(lambda: any(served.answering for served in serving.frontend.connections))
        await soon(lambda: refusals == ["at once", "at once", "drained"])


# A client that takes its time, or leaves.


@on_each_loop
async def test_a_large_answer_waits_for_its_client() -> None:
    piece, count, written = b"x" * 100_000, 200, []

    async def large(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(piece) * count))
        for _ in range(count):
            connection.write(piece)
            written.append(len(piece))
            await connection.drained()
        return True

    async with Serving(large) as serving, await serving.client() as client:
        client.pause()
        client.send(request("/1"))
        served = await serving.served()
        await soon(lambda: served.writing_paused)
        assert len(written) < count
        client.resume()
        assert len((await client.wait_response()).body) == len(piece) * count


# The frontend.


@on_each_loop
async def test_a_drain_closes_idle_connections_after_the_grace_and_others_after_their_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "_LINGERING", SHORT)
    held = Held()
    async with Serving(held) as serving, await serving.client() as busy, await serving.client() as idle:
        busy.send(request("/1") + request("/2"))
        await soon(lambda: held.story and len(serving.frontend.connections) == 2)
        serving.frontend.drain(SHORT)
        assert await idle.wait_end() is Ending.EOF
        assert idle.received == b""
        assert busy.ending is None
        held.go.set()
        await busy.wait_end()
        assert held.story == ["begin /1", "end /1"]
        assert [bytes(answer.body) for answer in busy.responses] == [b"/1"]
        await serving.until_gone()


@on_each_loop
async def test_a_drain_leaves_a_refused_client_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "_LINGERING", NEVER)
    async with Serving(early) as serving, await serving.client() as client:
        client.send(UPLOAD % 10 + b"x")
        await client.wait_end()
        serving.frontend.drain(SHORT)
        assert len(serving.frontend.connections) == 1
        client.send(b"x" * 9)
        await serving.until_gone()


@on_each_loop
async def test_a_cut_ends_all_and_returns_when_nothing_is_answered_any_more() -> None:
    held = Held()
    async with Serving(held) as serving, await serving.client() as busy, await serving.client() as idle:
        busy.send(request("/1"))
        await soon(lambda: held.story and len(serving.frontend.connections) == 2)
        await serving.frontend.cut()
        assert held.story == ["begin /1", "cancelled /1"]
        await busy.wait_end()
        await idle.wait_end()
        assert busy.received == idle.received == b""
        await serving.until_gone()


# What is left of it.

OURS = (ClientConnection, HeadReader, ChunkedDecoder, web.BaseRequest)


BROKEN = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n"


async def reading(connection: ClientConnection, asked: web.BaseRequest) -> bool:
    """An answer to the whole body, or to a broken one."""
    try:
        return await echo(connection, asked)
    except RequestBodyError as error:
        return connection.respond(400, str(error), keep_alive=False)


async def failing(connection: ClientConnection, asked: web.BaseRequest) -> bool:
    raise RuntimeError("planned")


async def handing(connection: ClientConnection, asked: web.BaseRequest) -> bool:
    transport, _ = connection.hand_over(Taker())
    transport.write(response())
    return False


@on_each_loop
@pytest.mark.parametrize(
    ("handler", "sent", "status"),
    [
        (early, request("/"), 413),
        (early, UPLOAD % 3 + b"abc", 413),
        (early, UPLOAD % 3 + b"a", 413),
        (early, BROKEN, 413),
        (reading, BROKEN, 400),
        (reading, UPLOAD % 3 + b"abc", 200),
        (reading, UPLOAD % 3 + b"a", None),
        (failing, request("/"), 500),
        (handing, request("/"), 200),
        (early, b"nonsense\r\n\r\n", 400),
        (early, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (early, b"GET / HTTP/1.1\r\nA: " + b"a" * 5000, 431),
        (early, b"GET / HTTP/1.1\r\nHost", None),
        (early, b"", None),
    ],
)
async def test_nothing_is_left_of_a_request_that_only_the_collector_would_find(
    handler: Handler, sent: bytes, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.logger, "disabled", True)  # a captured record would keep its traceback

    def left() -> list[object]:
        return [found for found in gc.get_objects() if isinstance(found, OURS)]

    gc.collect()
    gc.disable()
    try:
        async with Serving(handler) as serving, await serving.client() as client:
            client.send(sent)
            if status is not None:
                assert (await client.wait_response()).status == status
            await client.close()
            await serving.until_gone()
        await soon(lambda: not left(), lambda: f"left: {left()}")
    finally:
        gc.enable()
