"""What a stream that is shared costs beside streams of their own: `python -m bench.sharing`.

An event to 100 clients of one group and to 100 clients without, in turn; then the memory of idle clients: in
groups of 100, each alone in its group, and without groups. Measures the proxy of the Python that runs it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import median
from bench.machine import choose_cores, descriptor_limit
from bench.processes import Running, free_port, start

_CLIENTS, _EVENTS, _ROUNDS, _IDLE = 100, 500, 6, 3000
_EVENT = b"data: " + b"x" * 192 + b"\n\n"
_CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_CONFIG = """
listen: 127.0.0.1:%d
admin: off
logging: {access: false}
upstreams: {origin: {url: "http://127.0.0.1:%d"}}
routes:
  - name: shared
    match: {path: /shared}
    upstream: origin
    stream: {confirm: {form: comment}, share: {by: credential, max_clients: 100}}
  - name: alone
    match: {path: /*}
    upstream: origin
    stream: {confirm: {form: comment}}
"""


class _Origin:
    """Answers each request with a stream."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self.streams: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            stream, _ = self._listener.accept()
            stream.recv(65536)
            stream.sendall(_HEAD)
            self.streams.append(stream)


@contextlib.contextmanager
def _proxy() -> Iterator[tuple[_Origin, Running]]:
    origin, port, cores = _Origin(), free_port(), choose_cores()
    os.sched_setaffinity(0, {cores.load})
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(_CONFIG % (port, origin.port), encoding="utf-8")
        command = [sys.executable, "-m", "sse_keepalive_proxy", "run", "-c", "config.yaml"]
        log, env = folder / "log", os.environ
        with start("proxy", command, port=port, core=cores.proxy, log=log, env=env, cwd=folder) as running:
            yield origin, running


def _open(port: int, path: str, token: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    request = f"GET {path}?access_token={token} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
    client.sendall(request.encode())
    if b" 200 " not in client.recv(65536):
        raise AssertionError("a stream was refused")
    return client


def _cpu_per_client(path: str, token: int) -> float:
    """Return the microseconds of CPU of one event for one client."""
    with _proxy() as (origin, proxy):
        clients = [_open(proxy.port, path, token) for _ in range(_CLIENTS)]
        clock = (~proxy.process.pid << 3) | 2  # the CPU clock of a process (clock_getcpuclockid)
        time.sleep(0.2)  # what belongs to the openings
        before = time.clock_gettime(clock)
        for _ in range(_EVENTS):
            for stream in origin.streams:
                stream.sendall(_CHUNK)
            for client in clients:
                while not client.recv(65536).endswith(_CHUNK):
                    pass
        return (time.clock_gettime(clock) - before) / _EVENTS / _CLIENTS * 1e6


def _kib_per_client(path: str, of_one_group: int) -> float:
    """Return the resident memory of an idle client."""
    count = min(_IDLE, descriptor_limit() // 4)
    with _proxy() as (_, proxy):
        first = [_open(proxy.port, path, -1 - index) for index in range(50)]
        before = _resident_kib(proxy)
        clients = [_open(proxy.port, path, index // of_one_group) for index in range(count)]
        time.sleep(1)
        kib = (_resident_kib(proxy) - before) / count
        for client in (*first, *clients):
            client.close()
    return kib


def _resident_kib(proxy: Running) -> float:
    pages = int(Path(f"/proc/{proxy.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


def _main() -> None:
    shared, alone = [], []
    for token in range(_ROUNDS):
        shared.append(_cpu_per_client("/shared", token))
        alone.append(_cpu_per_client("/alone", token))
    ratios = [one / other for one, other in zip(shared, alone, strict=True)]
    print(f"an event to {_CLIENTS} clients, CPU of each: {median(shared):.2f} µs shared,", end=" ")
    print(f"{median(alone):.2f} µs alone")
    print(f"  ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"an idle client in a group of 100: {_kib_per_client('/shared', 100):.2f} KiB")
    print(f"an idle client alone in its group: {_kib_per_client('/shared', 1):.2f} KiB")
    print(f"an idle client without a group: {_kib_per_client('/alone', 1):.2f} KiB")


if __name__ == "__main__":
    _main()
