"""curl as the client, with and without `--compressed`, and an upstream that compresses its stream."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sse_keepalive_proxy.demo.knobs import Gzip, Knobs
from tests.support.instance import EVENT_SOURCE
from tests.support.looping import in_loop
from tests.support.programs import Program, require, running
from tests.support.running import soon
from tests.support.sse_reference import Parsed, parse
from tests.support.stand_in import healing, new_user, pings, say

UNINSPECTABLE = "sse_proxy_uninspectable_streams_total"


class Curl:
    """A running curl: the head and the body that it has printed so far."""

    def __init__(self, program: Program) -> None:
        self._program = program

    @property
    def head(self) -> bytes:
        """Status line and fields, lower case."""
        return self._program.log_file.read_bytes().partition(b"\r\n\r\n")[0].lower()

    @property
    def body(self) -> bytes:
        """What came behind it, decoded only where curl was told to."""
        return self._program.log_file.read_bytes().partition(b"\r\n\r\n")[2]

    @property
    def stream(self) -> Parsed:
        """The body as a conforming client understands it."""
        return parse(self.body)

    async def ended(self) -> int:
        """Wait for its exit code."""
        await soon(lambda: self._program.process.poll() is not None, lambda: self._program.log)
        code = self._program.process.returncode
        assert isinstance(code, int)
        return code


@contextlib.contextmanager
def curl(directory: Path, *arguments: str) -> Iterator[Curl]:
    """curl that prints what comes when it comes, the head first."""
    command = [require("curl"), "--silent", "--no-buffer", "--include", *arguments]
    output = directory / f"curl-{len(list(directory.iterdir()))}"
    with running(command, port=None, log_file=output) as program:
        yield Curl(program)


@in_loop
@pytest.mark.parametrize("how", [[], ["--compressed"], ["--http1.0"]], ids=["plain", "compressed", "http1.0"])
async def test_curl_prints_confirm_pings_and_events_as_they_come(tmp_path: Path, how: list[str]) -> None:
    knobs = Knobs(ping_interval=None, gzip=Gzip.NEGOTIATED)
    async with healing(tmp_path, knobs=knobs, interval="500ms", reconnect_when="off", action="observe") as (
        notify,
        proxy,
    ):
        with curl(tmp_path, *how, proxy.url + new_user(notify)[1]) as client:
            await soon(lambda: client.stream.events, lambda: str(client.body))
            # The example confirms to every client by an event, also to one that is no EventSource.
            assert client.body.startswith(b'data: {"type":"connection_confirmed"')
            await soon(lambda: pings(client.body) > 0, lambda: str(client.body))
            say(notify, "hi")
            assert await client.ended() == 0
            assert {event.type for event in client.stream.events} == {"message"}
            assert len(client.stream.events) == 2 + pings(client.body)
            assert b"\r\ncontent-encoding:" not in client.head
            assert proxy.metric(UNINSPECTABLE, route="events") == 0


@in_loop
async def test_curl_that_asks_as_an_event_source_does_gets_the_confirm_event(tmp_path: Path) -> None:
    async with healing(tmp_path) as (notify, proxy):
        headers = [part for line in EVENT_SOURCE.split("\r\n") for part in ("-H", line)]
        with curl(tmp_path, "--compressed", *headers, proxy.url + new_user(notify)[1]) as client:
            await soon(lambda: client.stream.events, lambda: str(client.body))
            assert '"type":"connection_confirmed"' in client.stream.events[0].data
            assert client.stream.comments == []


@in_loop
async def test_an_upstream_that_would_compress_is_asked_not_to(tmp_path: Path) -> None:
    knobs = Knobs(ping_interval=None, gzip=Gzip.NEGOTIATED)
    async with healing(tmp_path, knobs=knobs, interval="500ms", reconnect_when="off", action="observe") as (
        notify,
        proxy,
    ):
        for url, compressed in ((notify.url, True), (proxy.url, False)):
            # As behind Cloudflare, which always asks for these two.
            user, target = new_user(notify)
            with curl(tmp_path, "-H", "Accept-Encoding: gzip, br", url + target) as client:
                await soon(
                    lambda user=user: any(stream.answered for stream in notify.hub.of_users({user})),
                    lambda: "curl has not asked",
                )
                say(notify, "hi")
                assert await client.ended() == 0
                assert (b"\r\ncontent-encoding: gzip" in client.head) is compressed
                assert (b"new_message" in client.body) is not compressed


@in_loop
@pytest.mark.parametrize("decodes", [True, False])
async def test_a_stream_that_is_compressed_against_the_request_passes_through_and_is_counted(
    tmp_path: Path, decodes: bool
) -> None:
    knobs = Knobs(ping_interval=0.5, gzip=Gzip.ALWAYS)
    how = ["--compressed"] if decodes else []
    async with healing(tmp_path, knobs=knobs, interval="200ms") as (notify, proxy):
        with curl(tmp_path, *how, proxy.url + new_user(notify)[1]) as client:

            def decoded() -> bytes:
                return client.body if decodes else zlib.decompressobj(wbits=31).decompress(client.body)

            # Twice upstream's own comment: silences of more than two of our intervals in between.
            await soon(lambda: decoded().startswith(b": ping\n\n" * 2), lambda: str(decoded()))
            assert b"\r\ncontent-encoding: gzip" in client.head
            assert proxy.metric(UNINSPECTABLE, route="events") == 1
            say(notify, "hi")
            assert await client.ended() == 0
            rest = decoded().replace(b": ping\n\n", b"")
            assert rest.startswith(b'data: {"event":"Generic","chat_id":2,"content":"hi"')  # not rewritten
            assert rest.endswith(b"event: Generic\n\n")
            for counter in ("confirms_sent_total", "pings_sent_total"):
                assert proxy.metric(f"sse_proxy_{counter}", route="events", form="comment") == 0
