"""Connecting: at once where the server is near, to the first address that accepts, never to oneself."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path
from typing import Any

import pytest

from sse_keepalive_proxy.net import connect as module
from sse_keepalive_proxy.net.connect import connect_tcp, connect_unix
from tests.support.programs import free_port
from tests.support.running import on_each_loop


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@on_each_loop
async def test_an_address_needs_no_resolver_and_a_near_server_no_turn_of_the_loop(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be resolved")

    monkeypatch.setattr(asyncio, "timeout", never)  # nor is anything waited for
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        sock = await connect_tcp(host, listening.getsockname()[1], within=5.0)
        with sock:
            assert sock.getpeername()[:2] == listening.getsockname()[:2]
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.getblocking()


@on_each_loop
async def test_of_several_addresses_the_first_that_accepts_is_taken() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port, closed = listening.getsockname()[1], free_port()

        class Resolving:
            """The loop with a resolver of ours."""

            def __getattr__(self, name: str) -> Any:
                return getattr(loop, name)

            async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
                kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
                return [(*kind, ("127.0.0.1", closed)), (*kind, ("127.0.0.1", port))]

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module.asyncio, "get_running_loop", Resolving)
            sock = await connect_tcp("notify-server", port, within=5.0)
        with sock:
            assert sock.getpeername() == ("127.0.0.1", port)


@on_each_loop
async def test_a_refusal_is_what_the_kernel_says() -> None:
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp("127.0.0.1", free_port(), within=5.0)
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp("localhost", free_port(), within=5.0)


@on_each_loop
async def test_a_server_that_does_not_answer_in_time_is_given_up_and_no_socket_is_left() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        try:
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(listening.getsockname())
            with pytest.raises(TimeoutError):
                await connect_tcp("127.0.0.1", listening.getsockname()[1], within=0.05)
        finally:
            for sock in waiting:
                sock.close()


@on_each_loop
async def test_a_socket_that_meets_itself_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel lends the very port that is connected to: here the source port is chosen to be it."""
    port = free_port()

    class Meeting(socket.socket):
        def connect_ex(self, address: Any) -> int:
            if self.getsockname()[1] == 0:
                self.bind(("127.0.0.1", port))
            return super().connect_ex(address)

    monkeypatch.setattr(module.socket, "socket", Meeting)
    monkeypatch.setattr(module, "_first_lent", lambda: 1024)
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp("127.0.0.1", port, within=5.0)


@on_each_loop
async def test_a_unix_socket_whose_backlog_is_full_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(0)
        first = await connect_unix(path, within=5.0)
        with first:
            connecting = asyncio.ensure_future(connect_unix(path, within=5.0))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not connecting.done()
            accepted, _ = listening.accept()
            accepted.close()
            (await connecting).close()


@on_each_loop
async def test_a_unix_socket_that_is_not_there_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 (its number is looked at)
        await connect_unix(str(tmp_path / "missing"), within=5.0)
    assert caught.value.errno == errno.ENOENT
