"""Connecting: at once where the server is near, to the first address that accepts, never to oneself.

Look-ups: one at a time for each name, shared, and forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sse_keepalive_proxy.net import connect as module
from sse_keepalive_proxy.net.connect import Resolver, connect_tcp, connect_unix
from tests.support.programs import free_port
from tests.support.running import on_each_loop, soon


class LookUps:
    """Stands in for the loop, whose resolver it replaces: every look-up waits for `answer`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.names: list[tuple[str, int]] = []
        self.answers: list[asyncio.Future[list[Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        self.names.append((host, port))
        self.answers.append(self._loop.create_future())
        return await self.answers[-1]


@contextlib.contextmanager
def looking_up() -> Iterator[LookUps]:
    """Replace the running loop's resolver."""
    look_ups = LookUps(asyncio.get_running_loop())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module.asyncio, "get_running_loop", lambda: look_ups)
        yield look_ups


class Knows(Resolver):
    """Resolves every name to the same addresses."""

    def __init__(self, *addresses: tuple[str, int]) -> None:
        super().__init__()
        self._addresses = addresses

    async def resolve(self, host: str, port: int) -> list[Any]:
        return [_info(*address) for address in self._addresses]


def _info(host: str, port: int) -> tuple[Any, ...]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.SOCK_STREAM, 6, "", (host, port)


@contextlib.contextmanager
def unanswering() -> Iterator[tuple[str, int]]:
    """An address that does not answer: its backlog is full."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()


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
        sock = await connect_tcp(host, listening.getsockname()[1], within=5.0, resolver=Resolver())
        with sock:
            assert sock.getpeername()[:2] == listening.getsockname()[:2]
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.getblocking()


@on_each_loop
async def test_of_several_addresses_the_first_that_accepts_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = listening.getsockname()
        resolver = Knows(("127.0.0.1", free_port()), here)
        sock = await connect_tcp("notify-server", 80, within=5.0, resolver=resolver)
        with sock:
            assert sock.getpeername() == here
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.getblocking()


@on_each_loop
async def test_an_address_that_does_not_answer_does_not_use_up_the_time_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_ATTEMPT_DELAY", 0.01)
    with unanswering() as dead, socket.create_server(("127.0.0.1", 0)) as listening:
        here = listening.getsockname()
        sock = await connect_tcp("notify-server", 80, within=20.0, resolver=Knows(dead, dead, here))
        with sock:
            assert sock.getpeername() == here


@on_each_loop
async def test_when_no_address_accepts_the_refusal_is_raised() -> None:
    resolver = Knows(("127.0.0.1", free_port()), ("127.0.0.1", free_port()))
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp("notify-server", 80, within=5.0, resolver=resolver)


@on_each_loop
async def test_when_no_address_answers_time_runs_out_and_no_socket_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_ATTEMPT_DELAY", 0.01)
    with unanswering() as dead, pytest.raises(TimeoutError):
        await connect_tcp("notify-server", 80, within=0.1, resolver=Knows(dead, dead))


@on_each_loop
async def test_callers_that_ask_for_the_same_name_share_one_look_up() -> None:
    resolver = Resolver()
    with looking_up() as look_ups:
        asking = [asyncio.ensure_future(resolver.resolve("notify-server", 80)) for _ in range(5000)]
        other_port = asyncio.ensure_future(resolver.resolve("notify-server", 81))
        await soon(lambda: len(look_ups.answers) == 2)
        for answer in look_ups.answers:
            answer.set_result([_info("127.0.0.1", 80)])
        assert await asyncio.gather(*asking) == [[_info("127.0.0.1", 80)]] * 5000
        await other_port
        assert look_ups.names == [("notify-server", 80), ("notify-server", 81)]


@on_each_loop
async def test_a_call_after_the_result_starts_a_new_look_up_also_after_an_error() -> None:
    resolver = Resolver()
    with looking_up() as look_ups:
        for count in (1, 2, 3):
            asking = asyncio.ensure_future(resolver.resolve("notify-server", 80))
            await soon(lambda: len(look_ups.answers) == count)  # noqa: B023 (awaited in this turn)
            if count == 2:
                look_ups.answers[-1].set_exception(socket.gaierror(socket.EAI_NONAME, "unknown"))
                with pytest.raises(socket.gaierror):
                    await asking
            else:
                look_ups.answers[-1].set_result([_info("127.0.0.1", count)])
                assert await asking == [_info("127.0.0.1", count)]
        assert not resolver._under_way


@on_each_loop
async def test_cancelling_one_caller_does_not_end_the_look_up_of_the_others() -> None:
    resolver = Resolver()
    with looking_up() as look_ups:
        impatient, patient = (asyncio.ensure_future(resolver.resolve("notify-server", 80)) for _ in range(2))
        await soon(lambda: look_ups.answers)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        look_ups.answers[0].set_result([_info("127.0.0.1", 80)])
        assert await patient == [_info("127.0.0.1", 80)]


@on_each_loop
async def test_a_look_up_without_callers_can_fail_without_an_error_report() -> None:
    resolver = Resolver()
    with looking_up() as look_ups:
        with pytest.raises(TimeoutError):
            await connect_tcp("notify-server", 80, within=0.01, resolver=resolver)
        look_ups.answers[0].set_exception(socket.gaierror(socket.EAI_AGAIN, "later"))
        await soon(lambda: not resolver._under_way)


@on_each_loop
async def test_a_refusal_is_what_the_kernel_says() -> None:
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp("127.0.0.1", free_port(), within=5.0, resolver=Resolver())
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp("localhost", free_port(), within=5.0, resolver=Resolver())


@on_each_loop
async def test_a_server_that_does_not_answer_in_time_is_given_up_and_no_socket_is_left() -> None:
    with unanswering() as (host, port), pytest.raises(TimeoutError):
        await connect_tcp(host, port, within=0.05, resolver=Resolver())


@on_each_loop
async def test_a_socket_connected_to_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel lends the very port that is connected to: here the source port is chosen to be it."""
    port = free_port()

    class Meeting(socket.socket):
        def connect_ex(self, address: Any) -> int:
            if self.getsockname()[1] == 0:
                self.bind(("127.0.0.1", port))
            return super().connect_ex(address)

    monkeypatch.setattr(module.socket, "socket", Meeting)
    monkeypatch.setattr(module, "_first_ephemeral", lambda: 1024)
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp("127.0.0.1", port, within=5.0, resolver=Resolver())


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
