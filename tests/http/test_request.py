"""What is made of a request that the parser has let through: values that nobody has to doubt, or a refusal.

Requests come over a socket through the real frontend; `tests/integration/test_smuggling.py` has the table
of those that must never pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from sse_keepalive_proxy.http.connection import ClientConnection
from sse_keepalive_proxy.http.frontend import ConnectionLimits, Frontend
from sse_keepalive_proxy.http.head import RequestHead
from sse_keepalive_proxy.http.request import ClientRequest, Refusal, admit
from sse_keepalive_proxy.net.poller import open_poller
from sse_keepalive_proxy.net.tcp import peer_address
from tests.support.looping import in_loop
from tests.support.raw_client import RawClient

Admit = Callable[[bytes], Coroutine[None, None, ClientRequest | Refusal]]


@contextlib.asynccontextmanager
async def frontend(path: Path | None = None, *, dualstack: bool = False) -> AsyncIterator[Admit]:
    """A frontend that admits requests and answers none. Yields what sends it bytes and gives the outcome."""
    outcomes: asyncio.Queue[ClientRequest | Refusal] = asyncio.Queue()

    async def handle(connection: ClientConnection, request: web.BaseRequest) -> bool:
        outcomes.put_nowait(
            admit(request, connection.head, peer=peer_address(connection.transport), scheme=b"http")
        )
        return False

    limits = ConnectionLimits(max_head=32_768, head_timeout=60.0, room=lambda: 1, refused=lambda *_: None)
    made = Frontend(handle, limits)
    if path is not None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen()
    elif dualstack:
        listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    listener = made.listen(open_poller(), listening)

    async def admitted(raw: bytes) -> ClientRequest | Refusal:
        where = {"path": path} if path is not None else {"port": listening.getsockname()[1]}
        async with await RawClient.connect(**where) as client:
            client.send(raw)
            async with asyncio.timeout(20):
                return await outcomes.get()

    try:
        yield admitted
    finally:
        listener.close()
        await made.cut()


async def admitted(raw: bytes) -> ClientRequest | Refusal:
    """The outcome of one request over TCP."""
    async with frontend() as send:
        return await send(raw)


async def taken(raw: bytes) -> ClientRequest:
    """The outcome of a request that has to be admitted."""
    outcome = await admitted(raw)
    assert isinstance(outcome, ClientRequest), outcome
    return outcome


def get(*lines: str, target: str = "/a", version: str = "1.1", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: a", *lines, "", ""]).encode("latin-1")


@in_loop
async def test_a_request_is_taken_as_it_came() -> None:
    incoming = await taken(get("X-One: 1", "x-one: é", target="/%61//../b?c=%20&d"))
    assert incoming == ClientRequest(
        method="GET",
        target="/%61//../b?c=%20&d",
        http10=False,
        host=b"a",
        headers=((b"Host", b"a"), (b"X-One", b"1"), (b"x-one", b"\xe9")),
        has_body=False,
        length=None,
        peer="127.0.0.1",
        scheme=b"http",
        upgrade=False,
    )
    assert incoming.path == "/%61//../b"


@in_loop
async def test_what_a_target_may_hold_arrives_byte_for_byte() -> None:
    letters = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "#")
    assert (await taken(get(target=f"/{letters}"))).target == f"/{letters}"


@pytest.mark.parametrize(
    ("target", "taken_as", "host"),
    [
        ("http://b/x?y", "/x?y", b"b"),
        ("HTTPS://b:1/x", "/x", b"b:1"),
        ("http://b", "/", b"b"),
        ("http://b?y", "/?y", b"b"),
        ("http://[::1]:1/", "/", b"[::1]:1"),
    ],
)
@in_loop
async def test_an_absolute_target_names_its_own_host(target: str, taken_as: str, host: bytes) -> None:
    incoming = await taken(get(target=target))
    assert (incoming.target, incoming.host) == (taken_as, host)


@in_loop
async def test_a_request_of_http_1_0_needs_no_host() -> None:
    assert (await taken(b"GET /a HTTP/1.0\r\n\r\n")).host == b""


@in_loop
async def test_two_fields_that_aiohttp_accepts_once_are_two() -> None:
    incoming = await taken(get("Server: 1", "X: y", "server: 2"))
    assert incoming.headers == ((b"Host", b"a"), (b"Server", b"1"), (b"X", b"y"), (b"server", b"2"))
    assert incoming.named[b"server"] == [b"1", b"2"]


@in_loop
async def test_options_may_ask_about_the_server_as_a_whole() -> None:
    incoming = await taken(get(method="OPTIONS", target="*"))
    assert (incoming.target, incoming.path) == ("*", "*")


@pytest.mark.parametrize(
    ("lines", "length", "has_body"),
    [
        ([], None, False),
        (["Content-Length: 0"], 0, False),
        (["Content-Length: 3"], 3, True),
        (["Content-Length: 0003"], 3, True),
        (["Transfer-Encoding: CHUNKED"], None, True),
    ],
)
@in_loop
async def test_a_body_is_measured_by_its_length_or_by_its_chunks(
    lines: list[str], length: int | None, has_body: bool
) -> None:
    incoming = await taken(get(*lines, method="POST"))
    assert (incoming.length, incoming.has_body) == (length, has_body)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@in_loop
async def test_the_version_of_a_request_is_known(version: str) -> None:
    assert (await taken(get(version=version))).http10 is (version == "1.0")


@in_loop
async def test_connection_names_at_most_100_fields() -> None:
    names = ",".join(["a"] * 100)
    assert (await taken(get(f"Connection: {names}"))).named[b"connection"] == [names.encode()]
    for lines in ([f"Connection: {names},"], [f"Connection: {names}", "connection: close"]):
        assert await admitted(get(*lines)) == Refusal(400, "Connection names more than 100 fields")


SOCKET_UPGRADE = ["Connection: Upgrade", "Upgrade: websocket"]


@pytest.mark.parametrize(
    ("lines", "method", "version", "upgrade"),
    [
        (SOCKET_UPGRADE, "GET", "1.1", True),
        (["connection: keep-alive, upgrade", "upgrade: WebSocket"], "GET", "1.1", True),
        (["Connection: keep-alive", "Connection: Upgrade", "Upgrade: websocket"], "GET", "1.1", True),
        (["Upgrade: websocket"], "GET", "1.1", False),
        (["Connection: Upgrade"], "GET", "1.1", False),
        (["Connection: Upgrade", "Upgrade: h2c"], "GET", "1.1", False),
        (["Connection: Upgrade", "Upgrade: h2c, websocket"], "GET", "1.1", False),
        ([*SOCKET_UPGRADE, "Upgrade: h2c"], "GET", "1.1", False),
        ([*SOCKET_UPGRADE, "Content-Length: 0"], "POST", "1.1", False),
        ([*SOCKET_UPGRADE, "Content-Length: 3"], "GET", "1.1", False),
        ([*SOCKET_UPGRADE, "Transfer-Encoding: chunked"], "GET", "1.1", False),
        (SOCKET_UPGRADE, "GET", "1.0", False),
    ],
)
@in_loop
async def test_only_a_get_without_a_body_becomes_a_websocket(
    lines: list[str], method: str, version: str, upgrade: bool
) -> None:
    assert (await taken(get(*lines, method=method, version=version))).upgrade is upgrade


@pytest.mark.parametrize(
    ("lines", "method", "repeatable"),
    [
        ([], "GET", True),
        (["Content-Length: 0"], "GET", True),
        (["Content-Length: 3"], "GET", False),
        (["Transfer-Encoding: chunked"], "GET", False),
        (["Connection: upgrade", "Upgrade: websocket"], "GET", False),
        ([], "POST", False),
        ([], "HEAD", False),
    ],
)
@in_loop
async def test_only_a_get_without_a_body_and_an_upgrade_may_be_sent_again(
    lines: list[str], method: str, repeatable: bool
) -> None:
    assert (await taken(get(*lines, method=method))).is_repeatable is repeatable


@in_loop
async def test_a_client_on_a_unix_socket_has_no_address(tmp_path: Path) -> None:
    async with frontend(tmp_path / "socket") as send:
        outcome = await send(get())
    assert isinstance(outcome, ClientRequest)
    assert outcome.peer == ""


@in_loop
async def test_an_ipv4_client_of_an_ipv6_socket_is_known_by_its_ipv4_address() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    async with frontend(dualstack=True) as send:
        outcome = await send(get())
    assert isinstance(outcome, ClientRequest)
    assert outcome.peer == "127.0.0.1"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (get().replace(b"Host: a", b"Host: a/b"), 400),
        (get().replace(b"Host: a", b"Host: a b"), 400),
        (get(target="http://u:p@b/"), 400),
        (get(target="/a#b"), 400),
        (get("Transfer-Encoding: gzip, chunked", method="POST"), 501),
        (get("Transfer-Encoding: chunked", method="POST", version="1.0"), 400),
        (get("Content-Length: 1000000000000000000", method="POST"), 400),
    ],
)
@in_loop
async def test_what_could_be_taken_in_two_ways_is_refused_in_one_line(raw: bytes, status: int) -> None:
    outcome = await admitted(raw)
    assert isinstance(outcome, Refusal), outcome
    assert outcome.status == status
    assert outcome.text
    assert "\n" not in outcome.text


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("/a", [("Host", "a"), ("X", "y\x01")]),
        ("/a", [("Host", "a"), ("X", "y\r\nZ: 1")]),
        ("/a", [("Host", "a"), ("Host", "a")]),
        ("/a", [("Host", "a"), ("Content-Length", "3"), ("Content-Length", "3")]),
        ("/a", [("Host", "a"), ("Content-Length", "3"), ("Transfer-Encoding", "chunked")]),
        ("/a", [("Host", "a"), ("Content-Length", "3, 3")]),
        ("/a b", [("Host", "a")]),
        ("*", [("Host", "a")]),
        ("a", [("Host", "a")]),
        ("http:///a", [("Host", "a")]),
    ],
)
def test_what_our_parser_refuses_is_refused_here_too_should_another_one_let_it_pass(
    target: str, fields: list[tuple[str, str]]
) -> None:
    request = make_mocked_request("GET", "/", CIMultiDict(fields))
    head = RequestHead(b"", target.encode(), (), 0)
    outcome = admit(request, head, peer="127.0.0.1", scheme=b"http")
    assert isinstance(outcome, Refusal)
    assert outcome.status == 400
