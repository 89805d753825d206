"""A connection to the proxy that waits, from one request to the next."""

from __future__ import annotations

import contextlib
import http.client
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import free_port, running
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.stand_in import example

__all__ = ["IdleConnection", "waiting"]


@dataclass(frozen=True, slots=True)
class IdleConnection:
    """`client` has had one answer, and nothing since then (`since`: seconds of `time.monotonic`)."""

    client: http.client.HTTPConnection
    proxy: ProxyProcess
    since: float


@contextlib.contextmanager
def waiting(directory: Path) -> Iterator[IdleConnection]:
    """Such a connection, with a proxy and a stand-in of its own behind it, all outside of any loop."""
    port = free_port()
    stand_in = [sys.executable, "-m", "sse_keepalive_proxy.demo.notify_server", "--port", str(port)]
    with (
        running(stand_in, port=port, log_file=directory / "stand-in.log"),
        running_proxy(directory, config=example(f"http://127.0.0.1:{port}")) as proxy,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)) as client,
    ):
        client.request("GET", "/health")
        assert client.getresponse().read()
        client.auto_open = 0  # it must not connect again on its own
        yield IdleConnection(client, proxy, time.monotonic())
