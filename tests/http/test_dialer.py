"""Connections to upstream: names, sockets, TLS, and what becomes of those that cannot be made.

With the dialer alone, and behind the real server, which has to answer for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sse_keepalive_proxy.config.types.address import UpstreamAddress, parse_upstream
from sse_keepalive_proxy.config.types.certificates import client_context
from sse_keepalive_proxy.errors import UpstreamRefused, UpstreamTimeout
from sse_keepalive_proxy.http.dialer import Dialer, UpstreamTls
from sse_keepalive_proxy.net.poller import open_poller
from tests.support.authority import Authority
from tests.support.http1 import response
from tests.support.looping import in_loop
from tests.support.programs import free_port
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import CLOSE, GOT_REQUEST, HOLD, RawUpstream, UpstreamConnection
from tests.support.running import Running, on_each_loop, on_loop, plain, soon

HELLO = [GOT_REQUEST, response("200 OK", b"hello")]


async def why_not(address: UpstreamAddress, within: float = 20.0, tls: UpstreamTls | None = None) -> str:
    """What is said of a connection that is refused."""
    dialer = Dialer(open_poller())
    with pytest.raises(UpstreamRefused) as caught:
        await dialer.open(address, within=within, tls=tls)
    assert dialer.open_connections == 0
    return str(caught.value)


async def answer_of(proxy: Running) -> tuple[int, bytes]:
    """Status and body of an answer that has to be the proxy's own."""
    async with await proxy.client() as client:
        client.request("/x?token=secret")
        answer = await client.wait_response(within=100.0)
        assert answer.header("content-type") == "text/plain; charset=utf-8"
        assert answer.header("cache-control") == "no-store"
        return answer.status, client.body


# The dialer.


@on_each_loop
async def test_open_connections_are_counted_until_they_are_gone() -> None:
    dialer = Dialer(open_poller())
    async with RawUpstream([HOLD]) as upstream:
        address = parse_upstream(upstream.url)
        first, second = [await dialer.open(address, within=20.0) for _ in range(2)]
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
            exchange = await dialer.open(address, within=20.0)
            await upstream.connection()
            exchange.close()
            await upstream.wait_all_closed()
    assert asked == ["notify-server"] * 2


@on_each_loop
async def test_a_second_address_is_tried_when_the_first_refuses() -> None:
    """`localhost` is often `::1` first, while the server listens on 127.0.0.1 alone."""
    async with RawUpstream([HOLD]) as upstream:
        exchange = await Dialer(open_poller()).open(
            parse_upstream(f"http://localhost:{upstream.port}"), within=20.0
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


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The authority, trusted by the system: by OpenSSL's variable."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


def by(authority: Authority, *more: str) -> str:
    """The upstream's `tls` that trusts this authority alone."""
    return f"tls: {{{', '.join((f'ca_file: {authority.file}', *more))}}}"


async def served_by(proxy: Running) -> bytes:
    """The body of upstream's answer."""
    async with await proxy.client() as client:
        client.request("/")
        return bytes((await client.wait_response()).body)


async def why_not_tls(upstream: RawUpstream, tls: str, caplog: pytest.LogCaptureFixture) -> str:
    """Why a request gets a 502, as the log says it."""
    caplog.clear()
    async with Running(plain(upstream.url, upstream=tls)) as proxy:
        assert (await answer_of(proxy))[0] == 502
    (line,) = (record for record in caplog.records if record.name.endswith(".gateway"))
    return line.getMessage()


@on_each_loop
async def test_an_upstream_with_tls_is_verified_by_its_name(trusted: Authority) -> None:
    names: list[str | None] = []
    server = trusted.server("127.0.0.1", "localhost")
    server.sni_callback = lambda _, name, __: names.append(name)
    async with RawUpstream(HELLO, ssl=server) as upstream:
        for host in ("127.0.0.1", "localhost"):
            config = plain(f"https://{host}:{upstream.port}")
            async with Running(config) as proxy, await proxy.client() as client:
                client.request("/")
                assert bytes((await client.wait_response()).body) == b"hello"
    assert names == [None, "localhost"]


@on_each_loop
async def test_a_body_over_tls_may_end_with_the_connection(trusted: Authority) -> None:
    end = asyncio.Event()
    script = [GOT_REQUEST, b"HTTP/1.1 200 OK\r\n\r\nhello", end, CLOSE]
    async with (
        RawUpstream(script, ssl=trusted.server("127.0.0.1")) as upstream,
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
async def test_an_upgrade_over_tls_carries_bytes_both_ways_until_the_end(trusted: Authority) -> None:
    go_on = asyncio.Event()
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    large = b"\x00\xff" * 500_000
    async with (
        RawUpstream(
            [GOT_REQUEST, switch + b"first", go_on, large, CLOSE], ssl=trusted.server("127.0.0.1")
        ) as upstream,
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
async def test_a_certificate_that_is_not_trusted_is_answered_502_and_logged(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with RawUpstream(HELLO, ssl=authority.server("127.0.0.1")) as upstream:
        async with Running(plain(upstream.url)) as proxy:
            said = b'route "all": the TLS handshake with upstream failed\n'
            assert await answer_of(proxy) == (502, said)
            assert proxy.metric("sse_proxy_upstream_errors_total", route="all", kind="refused") == 1
        (said,) = [record.getMessage() for record in caplog.records if record.name.endswith(".gateway")]
        assert f"cannot connect to {upstream.url}: its certificate is not trusted: " in said
        assert "secret" not in caplog.text
        assert not any(connection.requests for connection in upstream.connections)


@on_each_loop
async def test_a_certificate_for_another_name_is_not_trusted(trusted: Authority) -> None:
    async with RawUpstream(HELLO, ssl=trusted.server("other.example")) as upstream:
        said = await why_not(parse_upstream(upstream.url), tls=UpstreamTls(client_context(None, None)))
        assert said.startswith(f"cannot connect to {upstream.url}: its certificate is not trusted: ")
        assert "127.0.0.1" in said.partition("not trusted")[2]


@on_each_loop
async def test_a_server_without_tls_at_an_https_url_is_a_refusal_and_a_silent_one_a_timeout() -> None:
    async def speaks_first(connection: UpstreamConnection) -> None:
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with RawUpstream(speaks_first, [HOLD]) as upstream:
        address = parse_upstream(f"https://127.0.0.1:{upstream.port}")
        tls = UpstreamTls(client_context(None, None))
        said = await why_not(address, tls=tls)
        assert said.endswith(
            ": it does not speak TLS on this port: write an http:// url, or the port of its https"
        )
        with pytest.raises(UpstreamTimeout):
            await Dialer(open_poller()).open(address, within=0.1, tls=tls)
        await upstream.wait_all_closed()


@on_each_loop
async def test_a_ca_file_takes_the_place_of_the_systems_authorities(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Authority(tmp_path, "other")
    async with RawUpstream(HELLO, ssl=authority.server("127.0.0.1")) as upstream:
        async with Running(plain(upstream.url, upstream=by(authority))) as proxy:
            assert await served_by(proxy) == b"hello"
        said = await why_not_tls(upstream, by(other), caplog)
        assert said.endswith("unable to get local issuer certificate: name its authority in tls.ca_file")


@on_each_loop
async def test_a_server_name_is_sent_and_is_the_name_that_counts(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    names: list[str | None] = []
    server = authority.server("notify.example")
    server.sni_callback = lambda _, name, __: names.append(name)
    async with RawUpstream(HELLO, ssl=server) as upstream:
        named = by(authority, "server_name: notify.example")
        async with Running(plain(upstream.url, upstream=named)) as proxy:
            assert await served_by(proxy) == b"hello"
            asked = await (await upstream.connection()).request()
            assert asked.header("Host") == f"127.0.0.1:{proxy.port}"
        said = await why_not_tls(upstream, by(authority), caplog)
        assert "for '127.0.0.1': say the name that it has in tls.server_name" in said
        said = await why_not_tls(upstream, by(authority, "server_name: other.example"), caplog)
        assert "for 'other.example'" in said
    assert names == ["notify.example", None, "other.example"]


@on_each_loop
async def test_an_expired_certificate_is_reported_as_expired(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(authority.certificate("old", "127.0.0.1", valid=(-2, -1)))
    async with RawUpstream(HELLO, ssl=server) as upstream:
        said = await why_not_tls(upstream, by(authority), caplog)
        assert said.endswith("its certificate is not trusted: it has expired")


@on_each_loop
async def test_a_server_that_demands_a_certificate_gets_client_cert(authority: Authority) -> None:
    server = authority.server("127.0.0.1")
    server.load_verify_locations(authority.file)
    server.verify_mode = ssl.CERT_REQUIRED
    async with RawUpstream(HELLO, ssl=server) as upstream:
        mine = by(authority, f"client_cert: {authority.certificate('proxy')}")
        async with Running(plain(upstream.url, upstream=mine)) as proxy:
            assert await served_by(proxy) == b"hello"
            connection = await upstream.connection()
            (((_, name),),) = connection.transport.get_extra_info("peercert")["subject"]
            assert name == "proxy"


@contextlib.contextmanager
def demanding(authority: Authority, version: ssl.TLSVersion) -> Iterator[int]:
    """The port of a server that refuses one client without a certificate, with the alert that asyncio's
    servers do not send.
    """
    context = authority.server("127.0.0.1")
    context.maximum_version = version
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_REQUIRED

    def refuse() -> None:
        sock = listening.accept()[0]
        client = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        with pytest.raises(ssl.SSLError):
            client.do_handshake()
        with socket.socket(fileno=client.detach()) as sock:
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):  # what is unread would reset the connection, and with it the alert
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=refuse)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_each_loop
async def test_a_server_that_demands_a_missing_certificate_is_reported(
    authority: Authority, version: ssl.TLSVersion, caplog: pytest.LogCaptureFixture
) -> None:
    with demanding(authority, version) as port:
        async with Running(plain(f"https://127.0.0.1:{port}", upstream=by(authority))) as proxy:
            assert (await answer_of(proxy))[0] == 502
        (line,) = (record for record in caplog.records if record.name.endswith(".gateway"))
        assert "tls.client_cert" in line.getMessage()


@on_each_loop
async def test_the_deadline_of_a_connection_holds_for_the_handshake_too(authority: Authority) -> None:
    async with RawUpstream([HOLD]) as upstream:
        address = parse_upstream(f"https://127.0.0.1:{upstream.port}")
        tls = UpstreamTls(client_context(str(authority.file), None))
        with pytest.raises(UpstreamTimeout):
            await Dialer(open_poller()).open(address, within=0.1, tls=tls)
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


def test_a_name_that_cannot_be_resolved_is_502() -> None:
    async def ask() -> None:
        config = plain(
            "http://no-such-host.invalid", upstream="connect_timeout: 100s"
        )  # how long a resolver tries is its own affair
        async with Running(config) as proxy:
            assert await answer_of(proxy) == (502, b'route "all": upstream cannot be reached\n')

    on_loop("uvloop", ask(), within=120.0)


@on_each_loop
async def test_an_upstream_that_takes_too_long_to_connect_is_504() -> None:
    with full() as port:
        async with Running(plain(f"http://127.0.0.1:{port}", upstream="connect_timeout: 100ms")) as proxy:
            assert await answer_of(proxy) == (504, b'route "all": upstream took too long\n')
            assert proxy.metric("sse_proxy_upstream_errors_total", route="all", kind="timeout") == 1
