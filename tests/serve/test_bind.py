"""Listening sockets: every way to write an address, and what happens when one cannot be had."""

from __future__ import annotations

import contextlib
import gc
import resource
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sse_keepalive_proxy.config import ListenAddress
from sse_keepalive_proxy.config.types.address import parse_listen
from sse_keepalive_proxy.errors import CannotListen
from sse_keepalive_proxy.serve.activation import HandedOver
from sse_keepalive_proxy.serve.bind import bind, describe, file_of, forget, raise_descriptor_limit
from tests.support.programs import free_port


@contextlib.contextmanager
def bound(
    address: str, given: HandedOver | None = None, *, reuse_port: bool = False
) -> Iterator[list[socket.socket]]:
    sockets = bind(parse_listen(address), "listen", given or HandedOver(), reuse_port=reuse_port)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def refusal(address: str) -> str:
    """Why nothing can listen on `address`."""
    with pytest.raises(CannotListen) as caught, bound(address):
        pass
    return str(caught.value)


def connects(sock: socket.socket, host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client:
        return client.connect_ex((host, sock.getsockname()[1])) == 0


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


# Where.


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("127.0.0.1:0", "127.0.0.1"),
        pytest.param(
            "[::1]:0",
            "::1",
            marks=pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback"),
        ),
    ],
)
def test_an_address_is_that_address_alone(address: str, host: str) -> None:
    with bound(address) as (sock,):
        port = sock.getsockname()[1]
        assert describe(sock) == address.removesuffix("0") + str(port)
        assert connects(sock, host)
        assert not connects(sock, "::1" if host == "127.0.0.1" else "127.0.0.1")
        assert not sock.getblocking()


def test_a_name_is_resolved() -> None:
    with bound("localhost:0") as sockets:
        assert any(connects(sock, sock.getsockname()[0]) for sock in sockets)


def test_a_port_alone_is_every_address_of_both_families() -> None:
    with bound(":0") as (sock,):
        assert connects(sock, "127.0.0.1")
        assert connects(sock, "::1") or not socket.has_dualstack_ipv6()


def test_a_port_can_be_had_again_at_once() -> None:
    with bound("127.0.0.1:0") as (first,):
        address = describe(first)
        with socket.create_connection(first.getsockname()), first.dup() as same:
            same.setblocking(True)
            same.accept()[0].close()  # this end closes first: its port waits in TIME_WAIT
    with bound(address) as (second,):
        assert describe(second) == address


def test_a_unix_socket_is_a_file_that_can_be_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "proxy"
    with bound(f"unix:{path}") as (sock,):
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert describe(sock) == f"unix:{path}"
    forget(address := ListenAddress(None, None, str(path)), file_of(address))
    assert not path.exists()
    forget(address, file_of(address))  # once is enough, and twice does no harm
    forget(parse_listen("127.0.0.1:1"), None)


def test_with_reuse_port_two_can_listen_on_one_port_and_without_it_they_cannot() -> None:
    with bound("127.0.0.1:0", reuse_port=True) as (first,):
        with bound(describe(first), reuse_port=True) as (second,):
            assert describe(second) == describe(first)
        assert "Address already in use" in refusal(describe(first))
    for address in (":0", "localhost:0"):
        with bound(address, reuse_port=True) as sockets:
            assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in sockets)


# Handed over.


def given(*places: tuple[int, object]) -> tuple[HandedOver, list[socket.socket]]:
    """Sockets that listen at these places, as the service manager opens them."""
    made = []
    for family, where in places:
        made.append(socket.socket(family))
        made[-1].bind(where)  # type: ignore[arg-type]
        made[-1].listen()
    return HandedOver(made), made


def test_a_socket_that_was_handed_over_is_used_for_its_address(tmp_path: Path) -> None:
    unix = str(tmp_path / "proxy")
    handed, (four, path) = given((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, unix))
    with bound(describe(four), handed) as sockets:
        assert sockets == [four]
    with bound(f"unix:{unix}", handed) as sockets:
        assert sockets == [path]
    assert handed.owns(unix)
    handed.close()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_a_socket_of_every_interface_or_of_ipv6_is_used_for_its_address() -> None:
    handed, (every, six) = given((socket.AF_INET6, ("::", 0)), (socket.AF_INET6, ("::1", 0)))
    with bound(f":{every.getsockname()[1]}", handed) as sockets:
        assert sockets == [every]
    with bound(describe(six), handed) as sockets:
        assert sockets == [six]


def test_of_a_name_with_two_addresses_the_one_that_was_not_handed_over_is_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed, (first,) = given((socket.AF_INET, ("127.0.0.1", 0)))
    port = first.getsockname()[1]
    places = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.1", "127.0.0.2")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    with bound(f"both.test:{port}", handed) as sockets:
        assert [sock.getsockname()[0] for sock in sockets] == ["127.0.0.1", "127.0.0.2"]
        assert sockets[0] is first


def test_a_socket_that_no_address_names_is_closed_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    handed, (sock,) = given((socket.AF_INET, ("127.0.0.1", 0)))
    where = f"port {sock.getsockname()[1]} of 127.0.0.1"
    with bound("127.0.0.1:0", handed):
        handed.close()
    assert sock.fileno() == -1
    (line,) = caplog.records
    assert line.levelname == "WARNING"
    assert line.fields == {"address": where}  # type: ignore[attr-defined]


# When it cannot be.


def test_a_port_in_use_is_reported_with_its_key_its_address_and_what_to_do() -> None:
    with bound("127.0.0.1:0") as (taken,):
        assert refusal(describe(taken)) == (
            f"listen: cannot listen on {describe(taken)}: Address already in use; "
            "choose another address, or stop what uses this one"
        )


def test_a_name_that_cannot_be_resolved_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # a real resolver may think about it for long
    said = "cannot listen on nowhere.test:80: Name or service not known; the host name cannot be resolved"
    assert said in refusal("nowhere.test:80")


def test_an_address_of_another_machine_is_reported() -> None:
    assert "cannot listen on 203.0.113.7:80: Cannot assign requested address; this host" in (
        refusal("203.0.113.7:80")
    )


def test_a_socket_in_a_folder_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    assert "No such file or directory; its folder does not exist" in refusal(f"unix:{tmp_path}/none/x.sock")


def test_of_a_name_with_two_addresses_both_are_had_or_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with bound(f"127.0.0.2:{port}"):
        places = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.1", "127.0.0.2")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
        assert "Address already in use" in refusal(f"both.test:{port}")
        monkeypatch.undo()
        gc.collect()  # a socket that was left open would warn
        with bound(f"127.0.0.1:{port}"):
            pass


@pytest.mark.parametrize("content", [b"", b"precious"])
def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert f"cannot listen on unix:{path}: Address already in use" in refusal(f"unix:{path}")
    assert path.read_bytes() == content


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    assert "No such file or directory" in refusal(f"unix:{tmp_path}/nowhere/proxy")


def test_a_unix_socket_whose_server_has_ended_is_replaced(tmp_path: Path) -> None:
    with bound(f"unix:{tmp_path}/proxy"):
        pass
    assert (tmp_path / "proxy").exists()
    with (
        bound(f"unix:{tmp_path}/proxy"),
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(f"{tmp_path}/proxy")


def test_a_unix_socket_of_a_living_server_is_not_taken_from_it(tmp_path: Path) -> None:
    path = tmp_path / "proxy"
    with bound(f"unix:{path}"):
        inode = path.stat().st_ino
        assert "Address already in use" in refusal(f"unix:{path}")
        assert path.stat().st_ino == inode


def test_a_living_server_that_is_too_busy_to_answer_is_neither_waited_for_nor_replaced(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "busy")
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(path)
        busy.listen(0)
        for _ in range(3):  # until its backlog is full
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(path)
        assert "Address already in use" in refusal(f"unix:{path}")


# Descriptors.


def test_the_descriptor_limit_is_raised_as_far_as_it_may_and_some_are_kept_back() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    _, hard = before
    allowed = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, allowed), hard))
        assert raise_descriptor_limit() == max(allowed - 128, 16)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == allowed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
