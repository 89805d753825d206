"""Upstream's HTTP is read as leniently as nginx and HAProxy read it; what is passed on is plain HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.upstream_shapes import CUT, EVENT, REFUSED, SHAPES, WHOLE
from tests.support.hops import haproxy, nginx
from tests.support.http1 import Response, ResponseReader
from tests.support.looping import in_loop
from tests.support.raw_upstream import RawUpstream, UpstreamConnection
from tests.support.running import Running, on_each_loop, plain

STREAM = "stream: {confirm: off, keepalive: off, reconnect: off}"


async def by_target(connection: UpstreamConnection) -> None:
    """Sends the shape whose number is the target."""
    request = await connection.next_request(within=60)
    await connection.send(list(SHAPES.values())[int(request.target[1:])][0])
    connection.close()


async def answer_of(url: str, number: int) -> Response | None:
    """What a server answers, read strictly; None if that is no HTTP."""
    where, answers = urlsplit(url), ResponseReader()
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        writer.write(f"GET /{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(65536):
                answers.feed(data)
            answers.end()
    except ValueError:
        return None
    finally:
        writer.close()
    return answers.responses[0] if answers.responses else None


def outcome(answer: Response | None) -> str:
    """`WHOLE`, `CUT`, or the words of a 502."""
    if answer is None:
        return CUT
    if answer.status == 200:
        return WHOLE if answer.complete and answer.body == EVENT else CUT
    return answer.body.decode().removeprefix('route "all": ').rstrip()


@pytest.mark.parametrize("route", ["", STREAM], ids=["plain", "stream"])
@on_each_loop
async def test_every_shape_is_read_or_refused_in_words(route: str) -> None:
    async with RawUpstream(by_target) as upstream, Running(plain(upstream.url, route=route)) as proxy:
        for number, (name, (_, expected)) in enumerate(SHAPES.items()):
            answer = await answer_of(proxy.url, number)
            assert answer is not None, name
            assert outcome(answer) == expected, name
            if expected == WHOLE:
                framing = answer.header("transfer-encoding"), answer.header("content-length")
                assert framing in {("chunked", None), (None, "13"), (None, "013")}, name
                assert b"\x00" not in answer.raw_head, name
            elif expected != CUT:
                assert answer.status == 502, name


@in_loop
async def test_what_nginx_or_haproxy_passes_the_proxy_passes(tmp_path: Path) -> None:
    passed: set[str] = set()
    async with RawUpstream(by_target) as upstream:
        with (
            nginx(tmp_path, upstream.url, more="proxy_http_version 1.1;") as (by_nginx,),
            haproxy(tmp_path, upstream.url, idle="5s") as (by_haproxy,),
        ):
            for number, name in enumerate(SHAPES):
                answers = [await answer_of(url, number) for url in (by_nginx, by_haproxy)]
                if any(answer and answer.complete and answer.body == EVENT for answer in answers):
                    passed.add(name)
    assert len(passed) > 50
    assert passed <= REFUSED.keys() | {name for name, (_, expected) in SHAPES.items() if expected == WHOLE}
