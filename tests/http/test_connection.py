"""A client's connection over a real socket: one request after the other, its refusals, its deadlines.

How an exchange may end beside its answer is in `test_connection_ends`; what the configuration has to say
about connections in `tests/integration/test_limits.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from email.utils import parsedate_to_datetime

import pytest
from aiohttp import web

from sse_keepalive_proxy.errors import BodyTooLate, RequestBodyError
from sse_keepalive_proxy.http import connection as module
from sse_keepalive_proxy.http import lingering
from sse_keepalive_proxy.http.connection import ClientConnection
from tests.http.serving import Held, Serving, echo
from tests.support.http1 import request
from tests.support.running import on_each_loop, soon
from tests.support.sockets import Ending

NEVER = 3600.0
SHORT = 0.05
CLOSING = request("/a", "Connection: close")
UPLOAD = b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


# One request after the other.


@on_each_loop
async def test_requests_that_come_at_once_are_answered_one_at_a_time_in_their_order() -> None:
    held = Held()
    async with Serving(held) as serving, await serving.client() as client:
        client.send(request("/1") + request("/2") + request("/3"))
        await soon(lambda: held.story)
        assert held.story == ["begin /1"]
        held.go.set()
        await client.wait_for(lambda client: len(client.responses) == 3 and client.response.complete)
        assert [bytes(answer.body) for answer in client.responses] == [b"/1", b"/2", b"/3"]
        assert held.story == [f"{what} /{n}" for n in (1, 2, 3) for what in ("begin", "end")]


@on_each_loop
async def test_requests_that_come_at_once_do_not_keep_other_connections_waiting() -> None:
    turns: list[str] = []

    async def at_once(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        turns.append(connection.head.target.decode())
        return connection.respond(404, "nothing here")

    async with Serving(at_once) as serving, await serving.client() as many, await serving.client() as one:
        await soon(lambda: len(serving.frontend.connections) == 2)
        many.send(request("/many") * 500)
        one.send(request("/one"))
        await soon(lambda: len(turns) == 501)
        assert turns.index("/one") < 100


@on_each_loop
async def test_a_client_that_takes_no_answer_gets_no_further_ones_until_it_does() -> None:
    answered: list[str] = []

    async def at_once(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        answered.append(connection.head.target.decode())
        return connection.respond_with(200, b"x" * (1_000_000 if answered[-1] == "/1" else 1))

    async with Serving(at_once) as serving, await serving.client() as client:
        served = await serving.served()
        client.pause()
        client.send(request("/1") * 40)
        await soon(lambda: served.writing_paused)
        async with await serving.client() as other:
            for count in range(1, 201):  # meanwhile, all the others would be answered
                other.send(request("/2"))
                await other.wait_for(lambda other, count=count: len(other.responses) == count)
        assert answered.count("/1") < 40
        assert not served.answering
        client.resume()
        await client.wait_for(lambda client: len(client.responses) == 40 and client.response.complete)


@on_each_loop
async def test_a_request_that_waits_for_its_first_chunk_is_not_being_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_FIRST_CHUNK", NEVER)
    async with Serving() as serving, await serving.client() as client:
        served = await serving.served()
        client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await soon(lambda: served.head.target)
        assert not served.answering
        client.send(b"0\r\n\r\n")
        assert (await client.wait_response()).body == b"/1"


@on_each_loop
async def test_a_body_of_many_small_chunks_is_decoded_in_several_turns() -> None:
    pieces: list[bytes] = []

    async def reading(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        while data := await asked.content.readany():
            pieces.append(data)
        return connection.respond(404, "nothing here")

    body = b"0123456789" * 800
    coded = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    async with Serving(reading) as serving, await serving.client() as client:
        head = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.send(head + coded + request("/2"))
        await client.wait_for(lambda client: len(client.responses) == 2 and client.response.complete)
        assert b"".join(pieces) == body
        assert max(map(len, pieces)) < len(body) / 2


@on_each_loop
async def test_requests_and_bodies_may_come_byte_by_byte() -> None:
    raw = UPLOAD % 5 + b"hello" + request("/2")
    async with Serving() as serving, await serving.client() as client:
        await client.send_split(raw)
        await client.wait_for(lambda client: len(client.responses) == 2 and client.response.complete)
        assert [bytes(answer.body) for answer in client.responses] == [b"/uphello", b"/2"]


@on_each_loop
async def test_a_body_and_the_next_request_may_come_in_one_piece() -> None:
    async with Serving() as serving, await serving.client() as client:
        client.send(UPLOAD % 5 + b"hello" + UPLOAD % 2 + b"yo" + CLOSING)
        assert await client.wait_end() is Ending.EOF
        assert [bytes(answer.body) for answer in client.responses] == [b"/uphello", b"/upyo", b"/a"]


@on_each_loop
async def test_a_connection_is_closed_after_the_answer_if_the_handler_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "_LINGERING", SHORT)
    held = Held(keep_alive=False)
    held.go.set()
    async with Serving(held) as serving, await serving.client() as client:
        client.send(request("/1") + request("/2"))
        await client.wait_end()
        assert [bytes(answer.body) for answer in client.responses] == [b"/1"]
        assert held.story == ["begin /1", "end /1"]
        await serving.until_gone()


CHUNKED = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: GET\r\n\r\n"
UPGRADE = b"GET /u HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
SOME = {
    "GET": (request("/g"), b"/g"),
    "blank lines": (b"\r\n\r\n" + request("/g"), b"/g"),
    "sized": (UPLOAD % 5 + b"hello", b"/uphello"),
    "chunked": (CHUNKED, b"/cabc"),
    "upgrade": (UPGRADE + b"\r\n", b"/u"),
    "upgrade, sized": (UPGRADE + b"Content-Length: 16\r\n\r\nGET /x HTTP/1.1\r", b"/uGET /x HTTP/1.1\r"),
    "upgrade, chunked": (UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", b"/uab"),
}


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
@pytest.mark.parametrize("what", SOME)
@on_each_loop
async def test_no_byte_of_a_request_reaches_the_next_however_they_are_cut(what: str, piece: int) -> None:
    raw, answer = SOME[what]
    async with Serving() as serving, await serving.client() as client:
        await client.send_split(raw + raw + request("/last"), piece)
        await client.wait_for(lambda client: len(client.responses) == 3 and client.response.complete)
        assert [bytes(each.body) for each in client.responses] == [answer, answer, b"/last"]
        assert serving.refused == []


@pytest.mark.parametrize(
    ("version", "field", "kept"),
    [
        ("1.1", "X: y", True),
        ("1.1", "Connection: close", False),
        ("1.1", "Connection: X, Close", False),
        ("1.0", "X: y", False),
        ("1.0", "Connection: Keep-Alive", True),
    ],
)
@on_each_loop
async def test_a_connection_is_kept_as_its_request_says(version: str, field: str, kept: bool) -> None:
    async def saying(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        return connection.respond(404, "nothing here")

    async with Serving(saying) as serving, await serving.client() as client:
        client.send(f"GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n\r\n".encode())
        await client.wait_response()
        assert client.response.header("connection") == ("keep-alive" if kept else "close")
        assert parsedate_to_datetime(client.response.header("date") or "").tzinfo is not None
        if kept:
            client.send(CLOSING)
        assert await client.wait_end() is Ending.EOF
        assert [answer.status for answer in client.responses] == [404] * (1 + kept)


@on_each_loop
async def test_an_answer_to_head_has_no_body() -> None:
    async def saying(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        return connection.respond(404, "nothing here")

    async with Serving(saying) as serving, await serving.client() as client:
        client.send(request("/", method="HEAD"), method="HEAD")
        await client.wait_response()
        assert client.response.header("content-length") == "13"
        client.send(CLOSING, method="GET")
        await client.wait_end()
        assert [bytes(answer.body) for answer in client.responses] == [b"", b"nothing here\n"]


# Who answers is at fault.


@on_each_loop
async def test_a_handler_that_fails_is_answered_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        raise RuntimeError("planned")

    async with Serving(broken) as serving, await serving.client() as client:
        client.send(request("/1") + request("/2"))
        await client.wait_end()
        assert [answer.status for answer in client.responses] == [500]
        assert client.response.header("connection") == "close"
        assert b"planned" not in client.received
        assert serving.refused == [(500, "the proxy failed; its log says why", "127.0.0.1")]
    (record,) = [record for record in caplog.records if "please report this" in record.message]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "planned"


@on_each_loop
async def test_an_answer_that_cannot_be_whole_is_cut() -> None:
    async def cut(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        raise ConnectionError("upstream broke")

    async with Serving(cut) as serving, await serving.client() as client:
        client.send(request("/1"))
        await client.wait_end()
        assert client.body == b"12345"
        assert not client.response.complete
        assert serving.refused == []


@pytest.mark.parametrize("answered", [False, True], ids=["raised", "answered"])
@pytest.mark.parametrize("framing", [b"HTTP/1.1 200 OK\r\nContent-Length: 10", b"HTTP/1.0 200 OK"])
@on_each_loop
async def test_a_fault_in_mid_answer_resets_the_connection_and_writes_nothing_into_the_body(
    framing: bytes, answered: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaking(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        connection.write(framing + b"\r\n\r\n12345")
        await seen.wait()
        if answered:
            return connection.respond(500, "no")
        raise RuntimeError("planned")

    seen = asyncio.Event()
    async with Serving(breaking) as serving, await serving.client() as client:
        client.send(request("/1"))
        await client.wait_for(b"12345")
        seen.set()
        assert await client.wait_end() is Ending.RESET
        assert client.body == b"12345"
        assert not client.response.complete
        await serving.until_gone()
    assert ("please report this" in caplog.text) is not answered


# What is no request.


RUBBISH = [
    b"GET / HTTP/1.1\r\nHost : s3cret\r\n\r\n",
    b"GET / HTTP/1.1\r\ns3cret\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n s3cret\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: s3cret\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: s3cret\x00\r\n\r\n",
    b"S-CRET /s3cret HTTP/1.1\r\n\r\n",
    b"GET http://[s3cret/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a:s3cret/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://xn--s3cret]/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://[]@ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://\xff..s3cret/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://s3cret../ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /#s3cret HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET s3cret HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: s3cret\r\nContent-Length: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6, 6\r\n\r\ns3cret",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\ns3cret",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: s3cret\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n6\r\ns3cret\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\ns3cret\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: s3cret\r\nContent-Length: 6\r\n\r\ns3cret",
    b"GET / HTTP/1.1\r\nHost: a\r\nCookie: s3cret\xff\r\nX\xff: s3cret\r\n\r\n",
]


@pytest.mark.parametrize("raw", RUBBISH)
@on_each_loop
async def test_rubbish_is_answered_in_one_line_that_repeats_nothing_of_it_and_so_are_the_logs(
    raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def admitting(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        with contextlib.suppress(RequestBodyError):
            await asked.content.readany()
        return connection.respond(400, "not admitted", keep_alive=False)

    caplog.set_level(logging.DEBUG)
    async with Serving(admitting) as serving, await serving.client() as client:
        client.send(raw)
        assert await client.wait_end() is Ending.EOF
        assert [answer.status for answer in client.responses] == [400]
        assert client.body.count(b"\n") == 1
        assert b"s3cret" not in client.received
        assert "s3cret" not in str(serving.refused)
    noticed = [
        record for record in caplog.records if record.name != "asyncio" or record.levelno > logging.DEBUG
    ]
    assert not noticed


@on_each_loop
async def test_a_client_that_speaks_tls_is_recognised() -> None:
    async with Serving() as serving, await serving.client() as client:
        client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        assert await client.wait_end() is Ending.EOF
        assert client.response.status == 400
        assert b"speaks TLS" in client.body


@on_each_loop
async def test_connect_is_answered_501() -> None:
    async with Serving() as serving, await serving.client() as client:
        client.send(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + request("/2"))
        assert await client.wait_end() is Ending.EOF
        assert [answer.status for answer in client.responses] == [501]


@on_each_loop
async def test_the_preface_of_http_2_is_no_request() -> None:
    async with Serving() as serving, await serving.client() as client:
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert await client.wait_end() is Ending.EOF
        assert client.response.status == 400


@on_each_loop
async def test_what_is_no_request_is_refused_with_400_and_its_connection_is_closed() -> None:
    async with Serving() as serving, await serving.client() as client:
        client.send(b"nonsense\r\n\r\n")
        assert await client.wait_end() is Ending.EOF
        assert client.response.status == 400
        assert client.body == b"this is not a valid HTTP/1.1 request\n"
        assert client.response.header("connection") == "close"
        assert serving.refused == [(400, "this is not a valid HTTP/1.1 request", "127.0.0.1")]


@on_each_loop
async def test_an_invalid_request_is_refused_after_the_answer_to_the_one_before() -> None:
    held = Held()
    async with Serving(held) as serving, await serving.client() as client:
        client.send(request("/1") + b"nonsense\r\n\r\n" + request("/2"))
        await soon(lambda: held.story)
        assert serving.refused == []
        held.go.set()
        assert await client.wait_end() is Ending.EOF
        assert [answer.status for answer in client.responses] == [200, 400]
        assert held.story == ["begin /1", "end /1"]


@on_each_loop
async def test_a_head_without_an_end_is_refused_once_it_is_too_large() -> None:
    async with Serving(max_head=100) as serving, await serving.client() as client:
        client.send(b"GET / HTTP/1.1\r\nX: " + b"y" * 80)
        served = await serving.served()
        await soon(lambda: served._head_reader is not None and served._head_reader.size == 99)
        assert client.received == b""
        client.send(b"yy")
        assert await client.wait_end() is Ending.EOF
        assert client.response.status == 431
        assert client.body == b"the request head is larger than 100 bytes\n"


@on_each_loop
async def test_what_follows_a_refusal_is_read_and_never_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "_LINGERING", NEVER)
    async with Serving() as serving, await serving.client() as client:
        client.send(b"nonsense\r\n\r\n")
        assert await client.wait_end() is Ending.EOF
        client.send(request("/1") * 10_000)  # would be reset if nobody read it
        await soon(lambda: not client.transport.get_write_buffer_size())
        assert [answer.status for answer in client.responses] == [400]
        assert len(serving.frontend.connections) == 1
        await client.close()
        await serving.until_gone()


# Room.


@on_each_loop
async def test_a_refused_client_gets_a_retry_after_and_the_others_stay() -> None:
    async with Serving() as serving:
        serving.room = lambda: 1 - len(serving.frontend.connections)
        async with await serving.client() as first:
            first.send(request("/1"))
            await first.wait_response()
            async with await serving.client() as second:
                assert await second.wait_end() is Ending.EOF
                assert second.response.status == 503
                assert 1 <= int(second.response.header("retry-after") or 0) <= 10
                assert b"no room for another connection" in second.body
            first.send(request("/2"))
            await first.wait_for(b"/2")
            assert [status for status, *_ in serving.refused] == [503]


@on_each_loop
async def test_a_few_without_room_are_read_on_and_more_are_closed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "_LINGERING", NEVER)
    async with Serving() as serving:
        serving.room = lambda: -lingering.MOST_LINGERING
        async with await serving.client() as client:
            await client.wait_end()
            client.send(request("/1") * 10_000)
            await soon(lambda: not client.transport.get_write_buffer_size())
            assert len(serving.frontend.connections) == 1
        await serving.until_gone()
        serving.room = lambda: -lingering.MOST_LINGERING - 1
        async with await serving.client() as client:
            await client.wait_end()
            assert client.response.status == 503
            await serving.until_gone()


# Time.


@on_each_loop
async def test_a_head_that_is_not_whole_in_its_time_is_answered_408() -> None:
    async with Serving() as serving, await serving.client() as client:
        await serving.served()
        serving.limit(head_timeout=SHORT)  # from its first byte on, which comes in time
        client.send(b"GET / HTTP/1.1\r\n")
        assert await client.wait_end() is Ending.EOF
        assert client.response.status == 408
        assert client.body == b"the request head took longer than 0.05 s\n"


@on_each_loop
async def test_a_client_that_never_asks_is_closed_without_a_word() -> None:
    async with Serving(head_timeout=SHORT) as serving, await serving.client() as client:
        assert await client.wait_end() is Ending.EOF
        assert client.received == b""
        assert serving.refused == []


@on_each_loop
async def test_a_head_has_its_time_from_its_first_byte_however_many_follow() -> None:
    async with Serving() as serving, await serving.client() as client:
        served = await serving.served()
        client.send(b"GET / HTTP/1.1\r\n")
        await soon(lambda: served._head_reader is not None and served._head_reader.size)
        deadline = served._wakes_at
        assert deadline is not None
        client.send(b"X: y\r\n")
        await soon(lambda: served._head_reader is not None and served._head_reader.size == 22)
        assert served._wakes_at == deadline


@on_each_loop
async def test_an_answered_connection_waits_longer_than_a_head_may_take_and_not_for_ever() -> None:
    async with Serving() as serving, await serving.client() as client:
        served = await serving.served()
        serving.limit(head_timeout=SHORT)  # the first head has begun with the connection, and has its time
        client.send(request("/1"))
        await client.wait_response()
        await soon(lambda: not served.answering)
        assert served._wakes_at is None
        assert served.keepalive_timeout == 3630.0
        client.send(b"GET / HTTP/1.1\r\n")
        assert await client.wait_end() is Ending.EOF
        assert [answer.status for answer in client.responses] == [200, 408]
    async with Serving(idle_timeout=SHORT) as serving, await serving.client() as client:
        client.send(request("/1"))
        assert await client.wait_end() is Ending.EOF
        assert [answer.status for answer in client.responses] == [200]
        assert serving.refused == []


@on_each_loop
async def test_an_answer_has_no_deadline_here() -> None:
    held = Held()
    async with Serving(held) as serving, await serving.client() as client:
        client.send(UPLOAD % 5 + b"hello")
        await soon(lambda: held.story)
        assert (await serving.served())._wakes_at is None
        held.go.set()
        await client.wait_response()


@pytest.mark.parametrize("coding", ["Content-Length: 5", "Transfer-Encoding: chunked"])
@on_each_loop
async def test_a_body_that_pauses_for_too_long_is_too_late(
    coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BODY_TIMEOUT", SHORT)

    async def reading(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        with pytest.raises(BodyTooLate, match=r"nothing of the request's body came for 0\.05 s"):
            await asked.content.readexactly(5)
        return connection.respond(408, "too late", keep_alive=False)

    async with Serving(reading) as serving, await serving.client() as client:
        client.send(f"POST / HTTP/1.1\r\nHost: a\r\n{coding}\r\n\r\n2\r\n".encode())
        assert await client.wait_end() is Ending.EOF
        assert client.response.status == 408


@on_each_loop
async def test_a_body_has_its_time_from_its_last_bytes() -> None:
    async with Serving() as serving, await serving.client() as client:
        client.send(UPLOAD % 5 + b"h")
        served = await serving.served()
        await soon(lambda: served._receiving is not None and served._receiving.left == 4)
        assert served._receiving is not None
        began, served._receiving.came_at = served._receiving.came_at, 0.0
        client.send(b"e")
        await soon(lambda: served._receiving is not None and served._receiving.left == 3)
        assert served._receiving.came_at >= began
        client.send(b"llo")
        assert (await client.wait_response()).body == b"/uphello"


@on_each_loop
async def test_the_time_of_a_body_stands_still_while_it_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_AT_PEER", SHORT)
    go, size = asyncio.Event(), 8_000_000

    async def slow(connection: ClientConnection, asked: web.BaseRequest) -> bool:
        await go.wait()
        return await echo(connection, asked)

    async with Serving(slow) as serving, await serving.client() as client:
        client.send(UPLOAD % size + b"x" * size)
        served = await serving.served()
        await soon(lambda: served.transport is not None and not served.transport.is_reading())
        body = served._receiving
        assert body is not None
        came = body.came_at
        await soon(lambda: body.came_at > came)
        go.set()
        assert len((await client.wait_response()).body) == len("/up") + size
