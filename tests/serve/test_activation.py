"""Socket activation: the real command gets real descriptors, and a restart refuses nobody."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sse_keepalive_proxy.serve.activation import handed_over
from tests.support.manager import activated
from tests.support.programs import free_port

NOBODY = ["--upstream", "http://127.0.0.1:1"]


def asked(sock: socket.socket, path: str = "/") -> int:
    """The status of an answer on `sock`, a connected one. Nobody is behind the proxy: 502."""
    sock.settimeout(20)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = http.client.HTTPResponse(sock)
    answer.begin()
    return answer.status


def test_without_its_variables_or_for_another_process_nothing_is_handed_over() -> None:
    for environ in (
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"},
    ):
        kept = {**environ, "HOME": "/"}
        assert handed_over(kept)._left == {}
        assert kept == {"HOME": "/"}  # a child process must not believe that they are meant for it


def test_a_descriptor_that_is_no_listening_socket_is_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read, write = os.pipe()
    with socket.socket() as unbound:
        for number in (read, unbound.fileno()):
            monkeypatch.setattr("sse_keepalive_proxy.serve.activation._FIRST", number)
            environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
            assert handed_over(environ)._left == {}
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)
        unbound.detach()
    os.close(write)
    assert len(caplog.records) == 2


def test_the_sockets_of_both_listeners_are_used_and_a_unix_socket_stays_for_the_next_process(
    tmp_path: Path,
) -> None:
    path, log = tmp_path / "proxy", tmp_path / "log"
    with (
        socket.create_server(("127.0.0.1", 0)) as admin,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        listening.bind(str(path))
        listening.listen()
        listen, pages = f"unix:{path}", f"127.0.0.1:{admin.getsockname()[1]}"
        command = ["run", *NOBODY, "--listen", listen, "--admin-listen", pages]
        with activated([admin, listening], *command, log=log) as process:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                assert asked(client) == 502
            with socket.create_connection(admin.getsockname()) as client:
                assert asked(client, "/livez") == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert path.is_socket()
        assert "LISTEN_FDS" not in log.read_text()  # all of them were used


def test_a_client_that_connects_during_a_restart_waits_and_is_served(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        where = listening.getsockname()
        command = ["run", *NOBODY, "--listen", f"127.0.0.1:{where[1]}", "--admin-listen", "off"]
        with activated([listening], *command, log=tmp_path / "first") as process:
            with socket.create_connection(where) as client:
                assert asked(client) == 502
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        with (
            socket.create_connection(where) as waits,
            activated([listening], *command, log=tmp_path / "second"),
        ):
            assert asked(waits) == 502


def test_with_reuse_port_a_process_takes_over_from_another_and_no_request_is_lost(tmp_path: Path) -> None:
    port, config = free_port(), tmp_path / "config.yaml"
    config.write_text(
        f"listen: 127.0.0.1:{port}\nadmin: off\nreuse_port: true\ndrain: {{timeout: 5s, spread: 1s}}\n"
        "upstreams: {up: {url: 'http://127.0.0.1:1'}}\n"
        "routes: [{name: all, match: {path: /*}, upstream: up}]\n"
    )
    answers: list[int | str] = []
    over = threading.Event()

    def load() -> None:
        while not over.wait(0.005):
            try:
                with socket.create_connection(("127.0.0.1", port)) as client:
                    answers.append(asked(client))
            except (OSError, http.client.HTTPException) as error:
                answers.append(repr(error))

    command = ["run", "-c", str(config)]
    clients = [threading.Thread(target=load) for _ in range(2)]
    with started(command, tmp_path / "first") as first:
        for client in clients:
            client.start()
        try:
            with started(command, tmp_path / "second") as second:
                first.send_signal(signal.SIGTERM)
                assert first.wait(20) == 0
                served = len(answers)
                until(lambda: len(answers) > served + 20)
                over.set()
                for client in clients:
                    client.join()
                second.send_signal(signal.SIGTERM)
                assert second.wait(20) == 0
        finally:
            over.set()
    assert set(answers) == {502}


@contextlib.contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, ready, with nothing handed over."""
    with activated([], *command, log=log) as process:
        until(lambda: " ready" in log.read_text())
        yield process


def until(condition: Callable[[], object]) -> None:
    """Wait until `condition()` holds: another process and threads tell nobody."""
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_a_socket_of_another_address_is_closed_and_the_log_says_so(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_server(("127.0.0.1", port)) as listening,
        activated(
            [other, listening],
            "run",
            *NOBODY,
            "--listen",
            f"127.0.0.1:{port}",
            "--admin-listen",
            "off",
            log=log,
        ),
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        assert asked(client) == 502
        assert f"port {other.getsockname()[1]} of 127.0.0.1" in log.read_text()
