"""TLS at the door: who is let in, what is said to those who are not, and certificates that are replaced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from pathlib import Path

import pytest

from sse_keepalive_proxy.config import Overrides
from sse_keepalive_proxy.serve import reload
from sse_keepalive_proxy.serve.reload import Source
from sse_keepalive_proxy.serve.server import Server
from tests.support.authority import Authority
from tests.support.instance import Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    HOLD,
    RawUpstream,
    UpstreamConnection,
    chunk,
    response,
    stream_head,
)
from tests.support.running import Running, on_each_loop, plain, soon
from tests.support.sockets import Ending

HELLO = [GOT_REQUEST, response(body=b"hello")]
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def mine(tmp_path: Path) -> Authority:
    """An authority of this test alone."""
    return Authority(tmp_path)


def tls(authority: Authority, *more: str) -> str:
    """The top-level `tls` with a certificate of `authority`."""
    file = authority.certificate("proxy", "127.0.0.1", "localhost")
    return f"tls: {{{', '.join((f'cert_file: {file}', f'key_file: {file}', *more))}}}"


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Why handshakes failed, as it was logged."""
    return [
        record.fields["reason"]  # type: ignore[attr-defined]
        for record in caplog.records
        if record.getMessage() == "a TLS handshake failed"
    ]


# Who is let in.


@on_each_loop
async def test_a_request_over_tls_is_answered_and_upstream_hears_of_https(mine: Authority) -> None:
    async with RawUpstream(HELLO) as upstream, Running(plain(upstream.url, rest=tls(mine))) as proxy:
        async with await proxy.client(ssl=mine.client()) as client:
            client.request("/")
            assert bytes((await client.wait_response()).body) == b"hello"
            encrypted = client.transport.get_extra_info("ssl_object")
        request = await (await upstream.connection()).request()
        assert request.header("X-Forwarded-Proto") == "https"
        assert encrypted.version() == "TLSv1.3"


@on_each_loop
async def test_a_kept_connection_carries_several_requests(mine: Authority) -> None:
    async def script(connection: UpstreamConnection) -> None:
        asked = await connection.next_request()
        await connection.send(response(body=asked.body))

    async with (
        RawUpstream(script) as upstream,
        Running(plain(upstream.url, rest=tls(mine))) as proxy,
        await proxy.client(ssl=mine.client()) as client,
    ):
        for count, size in enumerate((0, 1, 300_000), 1):
            client.request("/", method="POST", body=b"x" * size)
            await client.wait_for(lambda client, count=count: len(client.responses) == count)
            assert len((await client.wait_response()).body) == size


@on_each_loop
async def test_only_a_client_with_a_certificate_of_client_ca_file_is_served(
    mine: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "other").certificate("stranger")
    demanded = tls(mine, f"client_ca_file: {mine.file}")
    async with RawUpstream(HELLO) as upstream, Running(plain(upstream.url, rest=demanded)) as proxy:
        async with await proxy.client(ssl=mine.client(mine.certificate("cloudflare"))) as client:
            client.request("/")
            assert (await client.wait_response()).status == 200
        for count, certificate in enumerate((None, stranger), 1):
            with contextlib.suppress(OSError):  # the client's own handshake may be over before
                async with await proxy.client(ssl=mine.client(certificate)) as client:
                    client.request("/")
                    await client.wait_end()
                    assert client.responses == []
            await soon(lambda count=count: len(failures(caplog)) == count)
        assert len(upstream.connections) == 1
    assert failures(caplog) == [
        "the client sent no certificate: `tls.client_ca_file` demands one",
        "the client's certificate is not accepted: unable to get local issuer certificate",
    ]
    assert "Traceback" not in caplog.text


@on_each_loop
async def test_a_unix_socket_stays_plain(mine: Authority, tmp_path: Path) -> None:
    listen = f"listen: ['127.0.0.1:0', 'unix:{tmp_path}/proxy']\n"
    async with (
        RawUpstream(HELLO) as upstream,
        Running(plain(upstream.url, rest=listen + tls(mine))),
        await RawClient.connect(path=tmp_path / "proxy") as client,
    ):
        client.request("/")
        assert (await client.wait_response()).status == 200


# Who is not.


@on_each_loop
async def test_plain_http_on_the_tls_port_is_answered_400_with_one_line_in_the_log(
    mine: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Running(plain(NOWHERE, rest=tls(mine))) as proxy:
        async with await RawClient.connect(port=proxy.port) as client:
            client.request("/secret", method="POST", body=b"x" * 100_000)
            answer = await client.wait_response()
            assert (answer.status, bytes(answer.body)) == (
                400,
                b"the plain HTTP request was sent to HTTPS port: use https://\n",
            )
            assert await client.wait_end() is Ending.EOF
        (line,) = [record for record in caplog.records if record.getMessage() == "refused"]
        assert line.fields["client"] == "127.0.0.1"  # type: ignore[attr-defined]
        assert "https://" in line.fields["reason"]  # type: ignore[attr-defined]
        assert "secret" not in caplog.text


@on_each_loop
async def test_a_client_that_sends_nothing_or_half_a_hello_is_disconnected_in_time(
    mine: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    limits = "\nlimits: {request_header_timeout: 200ms}"
    async with Running(plain(NOWHERE, rest=tls(mine) + limits)) as proxy:
        async with (
            await RawClient.connect(port=proxy.port) as silent,
            await RawClient.connect(port=proxy.port) as slow,
        ):
            slow.send(b"\x16\x03\x01")
            await silent.wait_end()
            await slow.wait_end()
        await soon(lambda: not proxy.proxy.busy)
    assert failures(caplog) == ["it was not over after 0.2 s (limits.request_header_timeout)"]


@on_each_loop
async def test_handshakes_that_fail_for_the_same_reason_are_logged_once_a_minute(
    mine: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other").client()

    def distrust() -> None:
        with socket.create_connection(("127.0.0.1", proxy.port)) as sock, pytest.raises(ssl.SSLError):
            other.wrap_socket(sock, server_hostname="127.0.0.1")

    async with Running(plain(NOWHERE, rest=tls(mine))) as proxy:
        for _ in range(3):
            await asyncio.to_thread(distrust)
            async with await RawClient.connect(port=proxy.port) as client:
                client.send(b"\x16\x03\x01\x00\x05nothing of the kind")
                await client.wait_end()
            async with await RawClient.connect(port=proxy.port):
                pass  # a look whether the port is open: nothing to say
        await soon(lambda: not proxy.proxy.busy)
    said = failures(caplog)
    assert "the client does not trust the authority of `tls.cert_file`" in said
    assert len(said) == len(set(said)) == 2
    assert "Traceback" not in caplog.text


@on_each_loop
async def test_a_handshake_that_is_not_over_counts_against_the_limit_and_leaves_it_when_it_ends(
    mine: Authority,
) -> None:
    async with (
        RawUpstream(HELLO) as upstream,
        Running(plain(upstream.url, rest=tls(mine) + "\nlimits: {max_connections: 2}")) as proxy,
        await RawClient.connect(port=proxy.port),
        await RawClient.connect(port=proxy.port) as second,
    ):
        await soon(lambda: proxy.proxy.frontend.open_connections == 2)
        async with await proxy.client(ssl=mine.client()) as refused:
            assert (await refused.wait_response()).status == 503
        await second.close()
        await soon(lambda: proxy.proxy.frontend.open_connections == 1)
        async with await proxy.client(ssl=mine.client()) as client:
            client.request("/")
            assert (await client.wait_response()).status == 200


@on_each_loop
async def test_a_stop_leaves_no_handshake_open(mine: Authority) -> None:
    async with Running(plain(NOWHERE, rest=tls(mine))) as proxy:
        silent, slow = await RawClient.connect(port=proxy.port), await RawClient.connect(port=proxy.port)
        slow.send(b"\x16\x03\x01")
        await soon(lambda: proxy.proxy.frontend.open_connections == 2)
    await silent.wait_end()
    await slow.wait_end()
    await silent.close()
    await slow.close()


# An answer that comes before its request is whole.


@on_each_loop
async def test_an_early_answer_to_a_large_upload_reaches_a_client_that_still_sends(mine: Authority) -> None:
    early = [GOT_REQUEST, response("413 Content Too Large", b"no", "Connection: close"), HOLD]
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n"
    async with RawUpstream(early) as upstream, Running(plain(upstream.url, rest=tls(mine))) as proxy:
        for _ in range(5):
            async with await proxy.client(ssl=mine.client()) as client:
                client.send(head + b"x" * 4_000_000, method="POST")
                answer = await client.wait_response()
                assert (answer.status, bytes(answer.body)) == (413, b"no")


# Certificates that are replaced.


class Served(Instance):
    """An instance whose files can change; `reload` reads them anew."""

    def __init__(self, folder: Path, text: str) -> None:
        path = folder / "config.yaml"
        path.write_text(f"listen: 127.0.0.1:0\nadmin: off\n{text}\n")
        source = Source(path, environ={}, overrides=Overrides())
        self.server = Server(source.load().settings, source)

    def reloads(self, result: str) -> float:
        """How many reloads have ended so."""
        return self.metric("config_reloads_total", result=result)

    async def reload(self, result: str = "success") -> None:
        """Read everything anew, with this result."""
        before = self.reloads(result)
        self.server.reload()
        await self.until(lambda: self.reloads(result) == before + 1)


async def presented(proxy: Running, authority: Authority) -> str:
    """The name in the certificate that a new client sees."""
    async with await proxy.client(ssl=authority.client()) as client:
        (((_, name),),) = client.transport.get_extra_info("peercert")["subject"]
        return str(name)


@on_each_loop
async def test_a_reload_shows_the_new_certificate_to_new_clients_and_open_streams_live_on(
    mine: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second = (mine.certificate(name, "127.0.0.1") for name in ("first", "second"))
    file = tmp_path / "tls.pem"
    file.write_bytes(first.read_bytes())
    before = f"tls: {{cert_file: {file}, key_file: {file}}}"
    async with (
        RawUpstream([GOT_REQUEST, stream_head(), go := asyncio.Event(), chunk(b"data: 1\n\n")]) as upstream,
        Served(tmp_path, config(upstream, before=before)) as proxy,
        await proxy.event_source(ssl=mine.client()) as client,
    ):
        await client.wait_for(b"connection_confirmed")
        assert await presented(proxy, mine) == "first"
        file.write_bytes(second.read_bytes())
        assert await presented(proxy, mine) == "first"
        await proxy.reload()
        assert await presented(proxy, mine) == "second"
        (line,) = [found for found in caplog.records if found.getMessage() == "configuration reloaded"]
        assert line.fields == {"changed": "tls.cert_file"}  # type: ignore[attr-defined]
        go.set()
        await client.wait_for(b"data: 1\n\n")


@on_each_loop
async def test_a_broken_certificate_keeps_the_old_one_and_says_so(
    mine: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    for file in (cert, key):
        file.write_bytes(mine.certificate("first", "127.0.0.1").read_bytes())
    key.write_bytes(cert.read_bytes())
    before = f"tls: {{cert_file: {cert}, key_file: {key}}}"
    async with Served(tmp_path, config(NOWHERE, before=before)) as proxy:
        cert.write_bytes(mine.certificate("second", "127.0.0.1").read_bytes())
        await proxy.reload("failure")
        assert await presented(proxy, mine) == "first"
        assert "tls.key_file: the private key does not belong to the certificate" in caplog.text
        key.write_bytes(cert.read_bytes())
        await proxy.reload()
        assert await presented(proxy, mine) == "second"


@on_each_loop
async def test_a_certificate_that_is_swapped_by_a_symbolic_link_is_taken_up_by_itself(
    mine: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "_POLL", 0.05)
    for number, name in enumerate(("first", "second")):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "tls.pem").write_bytes(mine.certificate(name, "127.0.0.1").read_bytes())
    (tmp_path / "..data").symlink_to("..0")
    file = tmp_path / "tls.pem"
    file.symlink_to("..data/tls.pem")
    before = f"tls: {{cert_file: {file}, key_file: {file}}}"
    async with Served(tmp_path, config(NOWHERE, before=before)) as proxy:
        assert await presented(proxy, mine) == "first"
        (tmp_path / "..new").symlink_to("..1")
        (tmp_path / "..new").rename(tmp_path / "..data")
        await proxy.until(lambda: proxy.reloads("success") == 1)
        assert await presented(proxy, mine) == "second"


@on_each_loop
async def test_turning_tls_on_or_off_needs_a_restart(
    mine: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Served(tmp_path, config(NOWHERE)) as proxy:
        text = config(NOWHERE, before=tls(mine))
        (tmp_path / "config.yaml").write_text(f"listen: 127.0.0.1:0\nadmin: off\n{text}")
        await proxy.reload()
        assert proxy.server._settings.tls is None
        (line,) = [found for found in caplog.records if "need a restart" in found.getMessage()]
        assert line.fields == {"keys": "tls"}  # type: ignore[attr-defined]
        async with await RawClient.connect(port=proxy.port) as client:
            client.request("/")
            assert (await client.wait_response()).status == 502


@on_each_loop
async def test_a_reload_trusts_the_new_authority_of_an_upstream(mine: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other, trusted = Authority(tmp_path / "other", "other"), tmp_path / "ca.pem"
    trusted.write_bytes(other.file.read_bytes())
    async with RawUpstream(HELLO, ssl=mine.server("127.0.0.1")) as upstream:
        text = config(upstream).replace("'}}", f"', tls: {{ca_file: {trusted}}}}}}}")
        async with Served(tmp_path, text) as proxy:
            for status in (502, 200):
                async with await proxy.client() as client:
                    client.request("/")
                    assert (await client.wait_response()).status == status
                trusted.write_bytes(mine.file.read_bytes())
                await proxy.reload()
