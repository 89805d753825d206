"""A body without its coding, between an exchange and its reader: step by step, and only while it is read."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from itertools import pairwise

from sse_keepalive_proxy.errors import UpstreamReset
from sse_keepalive_proxy.http.decoding import DecodedBody
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.wire.codings import STEP, decoder_of
from tests.http.test_exchange import CHUNKED, Heard
from tests.support.http1 import LAST_CHUNK, chunk
from tests.support.looping import in_loop

SIZE = 20 * STEP
BOMB = gzip.compress(bytes(SIZE))


def begun(sink: Heard) -> tuple[Exchange, DecodedBody]:
    """An exchange without a connection whose head has come, and its decoded body with this sink."""
    exchange = Exchange(head_only=False)
    exchange.data_received(CHUNKED)
    body = DecodedBody(exchange, decoder_of((b"gzip",)))
    body.attach(sink)
    return exchange, body


def flushed(data: bytes) -> bytes:
    """The coding of `data` without an end."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


@in_loop
async def test_bytes_are_decoded_in_the_call_that_brings_them() -> None:
    sink = Heard()
    exchange, _ = begun(sink)
    coded = flushed(b"data: 1\n\n")
    for at in range(len(coded)):
        exchange.data_received(chunk(coded[at : at + 1]))
    assert sink.body == b"data: 1\n\n"
    exchange.data_received(LAST_CHUNK)
    assert (sink.ends, sink.errors) == (1, [])


@in_loop
async def test_one_turn_of_the_loop_makes_one_step_and_the_end_comes_last() -> None:
    sink = Heard()
    exchange, _ = begun(sink)
    exchange.data_received(chunk(BOMB) + LAST_CHUNK)
    sizes = []
    while not sink.ends:
        sizes.append(sink.size)
        await asyncio.sleep(0)
    assert sink.size == SIZE
    assert all(later - earlier <= STEP for earlier, later in pairwise(sizes))
    assert max(map(len, sink.pieces)) <= STEP


@in_loop
async def test_a_pause_stops_between_two_steps_and_what_comes_meanwhile_waits() -> None:
    bodies: list[DecodedBody] = []
    sink = Heard(lambda: bodies[0].pause())
    exchange, body = begun(sink)
    bodies.append(body)
    exchange.data_received(chunk(BOMB[:500]))
    exchange.data_received(chunk(BOMB[500:]) + LAST_CHUNK)
    for steps in range(1, SIZE // STEP + 1):
        for _ in range(5):
            await asyncio.sleep(0)
        assert (len(sink.pieces), sink.ends) == (steps, 0)
        body.resume()
    while not sink.ends:
        body.resume()
        await asyncio.sleep(0)
    assert sink.size == SIZE


@in_loop
async def test_an_error_of_the_exchange_follows_what_came_before_it() -> None:
    sink = Heard()
    exchange, _ = begun(sink)
    exchange.data_received(chunk(BOMB))
    exchange.fail(UpstreamReset("broke"))
    await sink.over()
    assert (sink.size, [str(error) for error in sink.errors]) == (SIZE, ["broke"])


@in_loop
async def test_a_broken_coding_is_one_reset() -> None:
    sink = Heard()
    exchange, _ = begun(sink)
    exchange.data_received(chunk(flushed(b"data: 1\n\n")))
    exchange.data_received(chunk(b"\xff" * 99))
    exchange.data_received(chunk(b"\xff" * 99) + LAST_CHUNK)
    assert sink.body == b"data: 1\n\n"
    (error,) = sink.errors
    assert isinstance(error, UpstreamReset)
    assert str(error) == "upstream's content coding is broken"


@in_loop
async def test_a_closed_body_says_nothing_more() -> None:
    bodies: list[DecodedBody] = []
    sink = Heard(lambda: bodies[0].close())
    exchange, body = begun(sink)
    bodies.append(body)
    exchange.data_received(chunk(BOMB) + LAST_CHUNK)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (len(sink.pieces), sink.ends, sink.errors) == (1, 0, [])


@in_loop
async def test_what_has_come_is_read_out_decoded_and_the_rest_comes_later() -> None:
    sink = Heard()
    exchange, body = begun(sink)
    exchange.data_received(chunk(BOMB))
    decoded, over = body.read_out()
    assert 4 * STEP <= len(decoded) <= 5 * STEP
    assert not over
    exchange.data_received(LAST_CHUNK)
    await sink.over()
    assert sink.size + len(decoded) == SIZE


@in_loop
async def test_a_coding_that_is_broken_is_over_when_it_is_read_out() -> None:
    exchange = Exchange(head_only=False)
    exchange.data_received(CHUNKED + chunk(b"not gzip"))
    assert DecodedBody(exchange, decoder_of((b"gzip",))).read_out() == (b"", True)
