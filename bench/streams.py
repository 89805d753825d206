"""An event-stream server, its clients, and the proxy between them: for `bench.sharing` and `bench.bridge`."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.machine import choose_cores
from bench.processes import Running, free_port, start

__all__ = ["Origin", "cpu_seconds", "open_stream", "proxy", "resident_kib"]

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Origin:
    """Answers each request with a stream, and is silent. `streams`: its connections, by their paths."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self.streams: dict[str, list[socket.socket]] = {}
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Close its connections, and accept no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for stream in itertools.chain(*self.streams.values()):
            stream.close()

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:  # closed
                return
            path = stream.recv(65536).split(b" ", 2)[1].partition(b"?")[0].decode()
            self.streams.setdefault(path, []).append(stream)
            stream.sendall(_HEAD)


@contextlib.contextmanager
def proxy(config: str, **values: object) -> Iterator[tuple[Origin, Running]]:
    """The proxy of this Python, on a core of its own, until the block ends. `config` is a template with the
    fields `port` and `origin`, and those of `values`.
    """
    origin, port, cores = Origin(), free_port(), choose_cores()
    os.sched_setaffinity(0, {cores.load})
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        text = config.format(port=port, origin=origin.port, **values)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "sse_keepalive_proxy", "run", "-c", "config.yaml"]
        log, env = folder / "log", os.environ
        with start("proxy", command, port=port, core=cores.proxy, log=log, env=env, cwd=folder) as running:
            try:
                yield origin, running
            finally:
                origin.close()


def open_stream(port: int, path: str, token: object) -> socket.socket:
    """A client that has got the head of its stream."""
    client = socket.create_connection(("127.0.0.1", port))
    request = f"GET {path}?access_token={token} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
    client.sendall(request.encode())
    if b" 200 " not in client.recv(65536):
        raise AssertionError("a stream was refused")
    return client


def cpu_seconds(running: Running) -> float:
    """The CPU that a process has used, user and system."""
    return time.clock_gettime((~running.process.pid << 3) | 2)  # as clock_getcpuclockid(3) has it


def resident_kib(running: Running) -> float:
    """The resident memory of a process."""
    pages = int(Path(f"/proc/{running.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024
