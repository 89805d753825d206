"""A client that closes its side of the connection, and still reads: it gets its answer. One that has left is
detected all the same.
"""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from sse_keepalive_proxy.http import connection as module
from sse_keepalive_proxy.http.connection import ClientConnection
from tests.http.serving import Held, Serving, echo
from tests.support.http1 import request
from tests.support.running import on_each_loop, soon
from tests.support.sockets import Ending

NEVER = 3600.0
SHORT = 0.05
UPLOAD = b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
AHEAD = b"HTTP/1.1 "


@on_each_loop
async def test_a_client_that_closes_its_side_after_its_request_gets_the_answer() -> None:
    held = Held()
    async with Serving(held) as serving, await serving.client() as client:
        client.send(request("/1"))
        client.half_close()
        await client.wait_for(lambda client: client.received == AHEAD)
        held.go.set()
        assert await client.wait_end() is Ending.EOF
        assert [(answer.status, bytes(answer.body)) for answer in client.responses] == [(200, b"/1")]
        await serving.until_gone()


@on_each_loop
async def test_it_gets_the_answers_to_all_its_whole_requests_and_none_to_the_rest() -> None:
    held = Held()
    async with Serving(held) as serving, await serving.client() as client:
        client.send(request("/1") + request("/2") + request("/3")[:-2])
        client.half_close()
        await soon(lambda: held.story)
        held.go.set()
        assert await client.wait_end() is Ending.EOF
        assert [bytes(answer.body) for answer in client.responses] == [b"/1", b"/2"]
        await serving.until_gone()


@on_each_loop
async def test_it_gets_the_whole_of_an_answer_that_had_begun() -> None:
    go = asyncio.Event()

    async def slow(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        await go.wait()
        connection.write(b"67890")
        return connection.keeps_alive

    async with Serving(slow) as serving, await serving.client() as client:
        client.send(request("/"))
        await client.wait_for(b"12345")
        client.half_close()
        served = await serving.served()
        await soon(lambda: served._ended)
        go.set()
        assert await client.wait_end() is Ending.EOF
        assert client.body == b"1234567890"
        assert client.response.complete


@pytest.mark.parametrize("leaves", [False, True], ids=["half-closed", "gone"])
@on_each_loop
async def test_inside_of_a_chunked_answer_a_zero_tells_it_from_a_client_that_has_gone(leaves: bool) -> None:
    go, story = asyncio.Event(), []

    async def slow(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        connection.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n")
        connection.chunked = True
        try:
            await go.wait()
        except asyncio.CancelledError:
            story.append("cancelled")
            raise
        connection.write(b"5\r\n67890\r\n")
        connection.write(b"0\r\n\r\n")
        return connection.keeps_alive

    async with Serving(slow) as serving, await serving.client() as client:
        client.send(request("/"))
        await client.wait_for(b"12345")
        if leaves:
            await client.close()
            await serving.until_gone()
            await soon(lambda: story == ["cancelled"])
        else:
            client.half_close()
            await client.wait_for(lambda client: client.received.endswith(b"12345\r\n0"))
            go.set()
            assert await client.wait_end() is Ending.EOF
            assert client.body == b"1234567890"
            assert client.response.complete


@pytest.mark.parametrize("whose", ["an interim answer", "an answer of one line", "a fault"])
@on_each_loop
async def test_whatever_comes_first_follows_the_bytes_that_were_sent_ahead(whose: str) -> None:
    go = asyncio.Event()

    async def answering(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        await go.wait()
        if whose == "a fault":
            raise RuntimeError("planned")
        if whose == "an interim answer":
            connection.write_interim(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        return connection.respond(404, "nothing here")

    async with Serving(answering) as serving, await serving.client() as client:
        client.send(request("/"))
        client.half_close()
        await client.wait_for(lambda client: client.received == AHEAD)
        go.set()
        await client.wait_end()
        assert [answer.status for answer in client.responses] == [500 if whose == "a fault" else 404]
        assert client.response.header("connection") == "close"
        assert client.received.count(AHEAD) == 1 + (whose == "an interim answer")


@pytest.mark.parametrize("sent", [b"", request("/")[:-2], UPLOAD % 5 + b"hell"])
@on_each_loop
async def test_without_a_whole_request_it_has_left(sent: bytes) -> None:
    async with Serving() as serving, await serving.client() as client:
        client.send(sent)
        await serving.served()
        client.half_close()
        assert await client.wait_end() is Ending.EOF
        assert client.received == b""
        await serving.until_gone()


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("behind", [b"", request("/2")], ids=["reading", "paused"])
@on_each_loop
async def test_a_client_that_has_closed_both_sides_cancels_its_request(
    how: str, behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_AT_PEER", SHORT)
    held = Held()
    async with Serving(held) as serving, await serving.client() as client:
        client.send(request("/1") + behind)
        await soon(lambda: held.story)
        if how == "close":
            await client.close()
        else:
            client.abort()
        await serving.until_gone()
        await soon(lambda: len(held.story) == 2)
        assert held.story == ["begin /1", "cancelled /1"]


@pytest.mark.parametrize("behind", [b"", request("/2")], ids=["reading", "paused"])
@on_each_loop
async def test_an_answer_may_say_that_a_client_which_closes_its_side_has_left(
    behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_AT_PEER", SHORT)

    async def stream(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        connection.ends_at_eof = True
        connection.write(b"HTTP/1.1 200 OK\r\n\r\nendless")
        await asyncio.Event().wait()
        return False

    async with Serving(stream) as serving, await serving.client() as client:
        client.send(request("/") + behind)
        await client.wait_for(b"endless")
        client.half_close()
        await client.wait_end()
        await serving.until_gone()


# A connection that is lent: the answer begins before the body of the request has come.


class Borrower(asyncio.Protocol):
    """Whoever answers in place of a handler."""

    def __init__(self) -> None:
        self.story: list[str] = []

    def data_received(self, data: bytes) -> None:
        self.story.append(f"data {data!r}")

    def eof_received(self) -> None:
        self.story.append("eof")

    def pause_writing(self) -> None:
        self.story.append("pause")

    def resume_writing(self) -> None:
        self.story.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.story.append("lost")


class Lending:
    """Lends the connection, then receives the body until its end. `body` is what came."""

    def __init__(self, first: bytes = b"lent") -> None:
        self.first = first
        self.borrower = Borrower()
        self.body = b""
        self.over = False

    async def __call__(self, connection: ClientConnection, asked: web.BaseRequest) -> bool:
        self.transport = connection.lend(self.borrower)
        self.transport.write(self.first)
        try:
            while data := await asked.content.readany():
                self.body += data
        except ConnectionError:
            self.body += b" and no more"
        self.over = True
        return False


@pytest.mark.parametrize("coding", ["Content-Length: 5", "Transfer-Encoding: chunked"])
@on_each_loop
async def test_the_body_of_a_request_is_received_after_its_answer_has_begun(coding: str) -> None:
    lending = Lending()
    async with Serving(lending) as serving, await serving.client() as client:
        client.send(f"POST / HTTP/1.1\r\nHost: a\r\n{coding}\r\n\r\n".encode())
        await client.wait_for(lambda client: client.received == b"lent")
        served = await serving.served()
        assert served._wakes_at is None  # the time of a body ends where its answer begins
        client.send(b"hello" if "5" in coding else b"5\r\nhello\r\n0\r\n\r\n")
        await soon(lambda: served.transport is None)
        assert (lending.body, lending.over) == (b"hello", True)
        client.send(b"more")
        await soon(lambda: lending.borrower.story == ["data b'more'"])
        await client.close()
        await soon(lambda: lending.borrower.story[-1] == "lost")


@on_each_loop
async def test_who_has_borrowed_a_connection_hears_of_its_end_and_the_rest_of_the_body_is_missing() -> None:
    lending = Lending()
    async with Serving(lending) as serving, await serving.client() as client:
        client.send(UPLOAD % 5 + b"he")
        await client.wait_for(lambda client: client.received == b"lent")
        await client.close()
        await serving.until_gone()
        await soon(lambda: lending.over)
        assert lending.borrower.story == ["eof", "lost"]
        assert lending.body == b"he and no more"


@on_each_loop
async def test_who_has_borrowed_a_connection_hears_that_its_client_is_slow() -> None:
    size = 20_000_000
    lending = Lending(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    async with Serving(lending) as serving, await serving.client() as client:
        client.send(UPLOAD % 5)
        await client.wait_for(lambda client: client.responses)
        client.pause()
        lending.transport.write(b"x" * size)
        assert lending.borrower.story == ["pause"]
        client.resume()
        await soon(lambda: lending.borrower.story == ["pause", "resume"])


# A body that turns out to be none.

CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"000;x\r\nT: 1\r\n\r\n"])
@pytest.mark.parametrize("piece", [1, 1 << 16])
@on_each_loop
async def test_an_empty_chunked_body_of_a_get_is_no_body(
    end: bytes, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_CHUNK", NEVER)
    framings: list[bytes] = []

    async def noting(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        framings.extend(name for name, _ in asked.raw_headers)
        assert asked.content.at_eof()
        return await echo(connection, asked)

    async with Serving(noting) as serving, await serving.client() as client:
        await client.send_split(request("/1", CHUNKED) + end + request("/2"), piece)
        await client.wait_for(lambda client: len(client.responses) == 2 and client.response.complete)
        assert framings == [b"Host", b"Host"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@on_each_loop
async def test_every_other_chunked_body_stays_one(method: str) -> None:
    async def noting(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        assert b"Transfer-Encoding" in dict(asked.raw_headers)
        return await echo(connection, asked)

    body = b"" if method == "POST" else b"5\r\nhello\r\n"
    async with Serving(noting) as serving, await serving.client() as client:
        await client.send_split(request("/", CHUNKED, method=method) + body + b"0\r\n\r\n")
        assert (await client.wait_response()).status == 200


@on_each_loop
async def test_a_get_whose_first_chunk_does_not_come_is_taken_to_have_a_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_FIRST_CHUNK", SHORT)
    held = Held()
    async with Serving(held) as serving, await serving.client() as client:
        client.send(request("/", CHUNKED))
        await soon(lambda: held.story)
        held.go.set()
        assert (await client.wait_response()).status == 200


@on_each_loop
async def test_a_get_whose_first_chunk_is_invalid_is_answered() -> None:
    held = Held()
    held.go.set()
    async with Serving(held) as serving, await serving.client() as client:
        client.send(request("/", CHUNKED) + b"zz\r\n")
        await client.wait_end()
        assert held.story[0] == "begin /"
