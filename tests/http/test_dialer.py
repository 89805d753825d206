"""Connections to upstream: names, sockets, TLS, and what becomes of those that cannot be made.

With the dialer alone, and behind the real server, which has to answer for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sse_keepalive_proxy.config.types.address import UpstreamAddress, parse_upstream
from sse_keepalive_proxy.errors import UpstreamRefused, UpstreamTimeout
from sse_keepalive_proxy.http.dialer import Dialer
from sse_keepalive_proxy.net.poller import open_poller
from tests.support.http1 import response
from tests.support.looping import in_loop
from tests.support.programs import free_port
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import CLOSE, GOT_REQUEST, HOLD, RawUpstream, UpstreamConnection
from tests.support.running import Running, on_each_loop, on_loop, plain, soon

HELLO = [GOT_REQUEST, response("200 OK", b"hello")]


async def why_not(address: UpstreamAddress, within: float = 5.0) -> str:
    """What is said of a connection that is refused."""
    dialer = Dialer(open_poller())
    with pytest.raises(UpstreamRefused) as caught:
        await dialer.open(address, within=within)
    assert dialer.open_connections == 0
    return str(caught.value)


async def answer_of(proxy: Running) -> tuple[int, bytes]:
    """Status and body of an answer that has to be the proxy's own."""
    async with await proxy.client() as client:
        client.request("/x?token=secret")
        answer = await client.wait_response(within=30.0)
        assert answer.header("content-type") == "text/plain; charset=utf-8"
        assert answer.header("cache-control") == "no-store"
        return answer.status, client.body


# The dialer.


@on_each_loop
async def test_open_connections_are_counted_until_they_are_gone() -> None:
    dialer = Dialer(open_poller())
    async with RawUpstream([HOLD]) as upstream:
        address = parse_upstream(upstream.url)
        first, second = [await dialer.open(address, within=5.0) for _ in range(2)]
        assert dialer.open_connections == 2
        first.close()
        await soon(lambda: dialer.open_connections == 1)
        (await upstream.connection(1)).close()
        await soon(lambda: dialer.open_connections == 0)
        second.close()
        await upstream.wait_all_closed()


@on_each_loop
async def test_a_refusal_names_the_address_and_the_reason(tmp_path: Path) -> None:
    port = free_port()
    said = await why_not(parse_upstream(f"http://127.0.0.1:{port}"))
    assert said.startswith(f"cannot connect to http://127.0.0.1:{port}: ")
    assert "refused" in said.lower()
    missing = await why_not(parse_upstream(f"unix:{tmp_path}/missing"))
    assert missing == f"cannot connect to unix:{tmp_path}/missing: No such file or directory"


@in_loop
async def test_a_name_that_cannot_be_resolved_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fails)
    said = await why_not(parse_upstream("http://notify-server:6687"))
    assert said == "cannot connect to http://notify-server:6687: the name cannot be resolved"


@on_each_loop
async def test_a_name_that_can_be_no_name_is_a_refusal() -> None:
    assert "cannot connect to http://" in await why_not(parse_upstream(f"http://{'a' * 64}.example"), 30.0)


@in_loop
async def test_a_name_is_resolved_again_for_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, dialer = asyncio.get_running_loop(), Dialer(open_poller())
    asked: list[str] = []
    places: list[int] = []

    async def resolve(host: str, port: int, **_: Any) -> Any:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", places[-1]))]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    address = parse_upstream("http://notify-server:6687")
    async with RawUpstream([HOLD]) as old, RawUpstream([HOLD]) as new:
        for upstream in (old, new):
            places.append(upstream.port)
            exchange = await dialer.open(address, within=5.0)
            await upstream.connection()
            exchange.close()
            await upstream.wait_all_closed()
    assert asked == ["notify-server"] * 2


@on_each_loop
async def test_a_second_address_is_tried_when_the_first_refuses() -> None:
    """`localhost` is often `::1` first, while the server listens on 127.0.0.1 alone."""
    async with RawUpstream([HOLD]) as upstream:
        exchange = await Dialer(open_poller()).open(
            parse_upstream(f"http://localhost:{upstream.port}"), within=5.0
        )
        exchange.close()
        await upstream.wait_all_closed()


@contextlib.contextmanager
def full() -> Iterator[int]:
    """The port of a listener whose backlog is full: the kernel drops what would connect."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@on_each_loop
async def test_a_connection_that_does_not_come_about_in_time_is_given_up() -> None:
    dialer = Dialer(open_poller())
    with full() as port, pytest.raises(UpstreamTimeout, match=rf"http://127\.0\.0\.1:{port} within 0\.1 s"):
        await dialer.open(parse_upstream(f"http://127.0.0.1:{port}"), within=0.1)
    assert dialer.open_connections == 0


# TLS, by an authority made for these tests.


@dataclass(frozen=True, slots=True)
class Authority:
    """`file` is its certificate; `server` what a server at `127.0.0.1` and `localhost` presents, `other`
    that of another name.
    """

    file: Path
    server: ssl.SSLContext
    other: ssl.SSLContext


def make_authority(folder: Path) -> Authority:
    """A new authority, and servers' certificates signed by it."""
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    authority_key = ec.generate_private_key(ec.SECP256R1())

    def certificate(
        key: ec.EllipticCurvePrivateKey, subject: x509.Name, names: list[x509.GeneralName], *, ca: bool
    ) -> bytes:
        number = x509.random_serial_number()
        builder = x509.CertificateBuilder(authority, subject, key.public_key(), number, now - day, now + day)
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        # What RFC 5280 asks for besides, and Python from 3.13 on.
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        builder = builder.add_extension(signer, critical=False)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        if ca:
            usage = dict.fromkeys(
                [
                    "digital_signature",
                    "content_commitment",
                    "key_encipherment",
                    "data_encipherment",
                    "key_agreement",
                    "crl_sign",
                    "encipher_only",
                    "decipher_only",
                ],
                False,
            )
            builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, **usage), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def server(*names: x509.GeneralName) -> ssl.SSLContext:
        key, chain = ec.generate_private_key(ec.SECP256R1()), folder / "server.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain.write_bytes(private + certificate(key, x509.Name([]), list(names), ca=False))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(chain)
        return context

    file = folder / "authority.pem"
    file.write_bytes(certificate(authority_key, authority, [], ca=True))
    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return Authority(file, server(x509.DNSName("localhost"), here), server(x509.DNSName("other.example")))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The authority, trusted as an operator trusts one of his own: by OpenSSL's variable."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


@on_each_loop
async def test_an_upstream_behind_tls_is_asked_by_its_name(trusted: Authority) -> None:
    names: list[str | None] = []
    trusted.server.sni_callback = lambda _, name, __: names.append(name)
    async with RawUpstream(HELLO, ssl=trusted.server) as upstream:
        for host in ("127.0.0.1", "localhost"):
            config = plain(f"https://{host}:{upstream.port}")
            async with Running(config) as proxy, await proxy.client() as client:
                client.request("/")
                assert bytes((await client.wait_response()).body) == b"hello"
    trusted.server.sni_callback = None  # type: ignore[assignment]
    assert names == [None, "localhost"]


@on_each_loop
async def test_a_body_behind_tls_may_end_with_the_connection(trusted: Authority) -> None:
    end = asyncio.Event()
    script = [GOT_REQUEST, b"HTTP/1.1 200 OK\r\n\r\nhello", end, CLOSE]
    async with (
        RawUpstream(script, ssl=trusted.server) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/")
        await client.wait_for(b"hello")
        assert not client.response.complete
        end.set()
        await client.wait_response()
        assert client.body == b"hello"


@on_each_loop
async def test_an_upgrade_behind_tls_carries_bytes_both_ways_until_the_end(trusted: Authority) -> None:
    go_on = asyncio.Event()
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    large = b"\x00\xff" * 500_000
    async with (
        RawUpstream([GOT_REQUEST, switch + b"first", go_on, large, CLOSE], ssl=trusted.server) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/", "Connection: Upgrade", "Upgrade: websocket")
        await client.wait_for(b"first")
        client.send(large)
        connection = await upstream.connection()
        await soon(lambda: connection.received.endswith(large))
        go_on.set()
        await client.wait_end()
        assert client.received.endswith(b"\r\n\r\nfirst" + large)


@on_each_loop
async def test_a_certificate_of_nobody_we_trust_is_answered_502_and_the_log_says_so(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with RawUpstream(HELLO, ssl=authority.server) as upstream:
        async with Running(plain(upstream.url)) as proxy:
            assert await answer_of(proxy) == (502, b'route "all": upstream cannot be reached\n')
            assert proxy.metric("sse_proxy_upstream_errors_total", route="all", kind="refused") == 1
        (said,) = [record.getMessage() for record in caplog.records if record.name.endswith(".proxy")]
        assert f"cannot connect to {upstream.url}: its certificate is not trusted: " in said
        assert "secret" not in caplog.text
        assert not any(connection.requests for connection in upstream.connections)


@on_each_loop
async def test_a_certificate_for_another_name_is_not_trusted(trusted: Authority) -> None:
    async with RawUpstream(HELLO, ssl=trusted.other) as upstream:
        said = await why_not(parse_upstream(upstream.url))
        assert said.startswith(f"cannot connect to {upstream.url}: its certificate is not trusted: ")
        assert "127.0.0.1" in said.partition("not trusted")[2]


@on_each_loop
async def test_a_server_without_tls_behind_an_https_url_is_a_refusal_and_a_silent_one_a_timeout() -> None:
    async def speaks_first(connection: UpstreamConnection) -> None:
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with RawUpstream(speaks_first, [HOLD]) as upstream:
        address = parse_upstream(f"https://127.0.0.1:{upstream.port}")
        assert "cannot connect to https://" in await why_not(address)
        with pytest.raises(UpstreamTimeout):
            await Dialer(open_poller()).open(address, within=0.1)
        await upstream.wait_all_closed()


# Unix sockets.


@on_each_loop
async def test_unix_sockets_serve_on_both_sides(tmp_path: Path) -> None:
    config = plain(f"unix:{tmp_path}/up", rest=f"listen: unix:{tmp_path}/front\ntrusted_proxies: []")
    async with RawUpstream(HELLO, path=tmp_path / "up") as upstream:
        proxy = Running(config)
        await proxy.server.start()
        try:
            async with await RawClient.connect(path=tmp_path / "front") as client:
                client.send(b"GET /x HTTP/1.1\r\nHost: chat.example\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n")
                assert bytes((await client.wait_response()).body) == b"hello"
                client.send(b"GET /y HTTP/1.0\r\n\r\n")
                await client.wait_for(lambda client: len(client.responses) == 2)
        finally:
            await proxy.server.drain(_now())
        first, second = [(await upstream.connection(index)).requests[0] for index in range(2)]
        assert (first.header("host"), first.header("x-forwarded-for")) == ("chat.example", "1.1.1.1")
        assert (second.header("host"), second.header("x-forwarded-for")) == ("localhost", None)
        assert not (tmp_path / "front").exists()


def _now() -> asyncio.Event:
    hurry = asyncio.Event()
    hurry.set()
    return hurry


# What the client gets when there is no connection.


@on_each_loop
async def test_an_upstream_that_is_down_is_502_in_one_line_until_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with RawUpstream(HELLO) as upstream, Running(plain(upstream.url)) as proxy:
        upstream.refuse()
        assert await answer_of(proxy) == (502, b'route "all": upstream cannot be reached\n')
        assert proxy.metric("sse_proxy_requests_total", route="all", method="GET", code="502") == 1
        assert f"cannot connect to {upstream.url}: " in caplog.text
        assert "secret" not in caplog.text
        await upstream.start()
        async with await proxy.client() as client:
            client.request("/")
            assert bytes((await client.wait_response()).body) == b"hello"


def test_a_name_that_nobody_knows_is_502() -> None:
    async def ask() -> None:
        config = plain("http://no-such-host.invalid", upstream="connect_timeout: 50s")
        async with Running(config) as proxy:
            assert await answer_of(proxy) == (502, b'route "all": upstream cannot be reached\n')

    on_loop("uvloop", ask(), within=60.0)


@on_each_loop
async def test_an_upstream_that_takes_too_long_to_connect_is_504() -> None:
    with full() as port:
        async with Running(plain(f"http://127.0.0.1:{port}", upstream="connect_timeout: 100ms")) as proxy:
            assert await answer_of(proxy) == (504, b'route "all": upstream took too long\n')
            assert proxy.metric("sse_proxy_upstream_errors_total", route="all", kind="timeout") == 1
