"""A client's connection over a real socket: one request after the other, its refusals, its deadlines.

How an exchange may end beside its answer is in `test_connection_ends`; what the configuration has to say
about connections in `tests/integration/test_limits.py`.
"""

from __future__ import annotations

import pytest
from aiohttp import web

from sse_keepalive_proxy.http import connection as module
from sse_keepalive_proxy.http.connection import ClientConnection
from tests.http.serving import Held, Serving
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
async def test_requests_and_bodies_may_come_byte_by_byte() -> None:
    raw = UPLOAD % 5 + b"hello" + request("/2")
    async with Serving() as serving, await serving.client() as client:
        await client.send_split(raw)
        await client.wait_for(lambda client: len(client.responses) == 2 and client.response.complete)
        assert [bytes(answer.body) for answer in client.responses] == [b"/uphello", b"/2"]


@on_each_loop
async def test_a_body_and_the_request_behind_it_may_come_in_one_piece() -> None:
    async with Serving() as serving, await serving.client() as client:
        client.send(UPLOAD % 5 + b"hello" + UPLOAD % 2 + b"yo" + CLOSING)
        assert await client.wait_end() is Ending.EOF
        assert [bytes(answer.body) for answer in client.responses] == [b"/uphello", b"/upyo", b"/a"]


@on_each_loop
async def test_a_connection_is_closed_behind_the_answer_when_the_handler_says_so() -> None:
    held = Held(keep_alive=False)
    held.go.set()
    async with Serving(held) as serving, await serving.client() as client:
        client.send(request("/1") + request("/2"))
        await client.wait_end()
        assert [bytes(answer.body) for answer in client.responses] == [b"/1"]
        assert held.story == ["begin /1", "end /1"]
        await serving.until_gone()


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


# What is no request.


@on_each_loop
async def test_what_is_no_request_is_refused_with_400_and_its_connection_is_closed() -> None:
    async with Serving() as serving, await serving.client() as client:
        client.send(b"\x16\x03\x01\x02\x00")
        assert await client.wait_end() is Ending.EOF
        assert client.response.status == 400
        assert client.body == b"this is not a valid HTTP/1.1 request\n"
        assert client.response.header("connection") == "close"
        assert serving.refused == [(400, "this is not a valid HTTP/1.1 request", "127.0.0.1")]


@on_each_loop
async def test_what_is_no_request_is_refused_behind_the_answer_to_the_one_before() -> None:
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
    monkeypatch.setattr(module, "_LINGERING", NEVER)
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
async def test_a_client_without_room_is_told_when_to_come_back_and_the_others_stay() -> None:
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
    monkeypatch.setattr(module, "_LINGERING", NEVER)
    async with Serving() as serving:
        serving.room = lambda: -module._MOST_LINGERING
        async with await serving.client() as client:
            await client.wait_end()
            client.send(request("/1") * 10_000)
            await soon(lambda: not client.transport.get_write_buffer_size())
            assert len(serving.frontend.connections) == 1
        await serving.until_gone()
        serving.room = lambda: -module._MOST_LINGERING - 1
        async with await serving.client() as client:
            await client.wait_end()
            assert client.response.status == 503
            await serving.until_gone()


# Time.


@on_each_loop
async def test_a_head_that_is_not_whole_in_its_time_is_answered_408() -> None:
    async with Serving(head_timeout=SHORT) as serving, await serving.client() as client:
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
async def test_an_answered_connection_waits_longer_than_a_head_may_take_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Serving() as serving, await serving.client() as client:
        client.send(request("/1"))
        await client.wait_response()
        served = await serving.served()
        await soon(lambda: not served.answering)
        idle_until = served._wakes_at
        client.send(b"GET / HTTP/1.1\r\n")
        await soon(lambda: served._head_reader is not None and served._head_reader.size)
        assert served._wakes_at is not None
        assert idle_until is not None
        assert served._wakes_at < idle_until
    monkeypatch.setattr(module, "_KEEPALIVE_TIMEOUT", SHORT)
    async with Serving() as serving, await serving.client() as client:
        client.send(request("/1"))
        assert await client.wait_end() is Ending.EOF
        assert [answer.status for answer in client.responses] == [200]
        assert serving.refused == []


@on_each_loop
async def test_an_answer_and_a_body_have_no_deadline_here() -> None:
    held = Held()
    async with Serving(held, head_timeout=SHORT) as serving, await serving.client() as client:
        client.send(UPLOAD % 5 + b"he")
        await soon(lambda: held.story)
        assert (await serving.served())._wakes_at is None
        client.send(b"llo")
        held.go.set()
        await client.wait_response()
