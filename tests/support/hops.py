"""Real programs in front of a server, with no more configuration than their manuals begin with.

    with nginx(tmp_path, notify.url, proxy.url) as (bare, healed):
        ...

Each runs in the foreground until the block ends, and gives one URL for each server it was given: two
ways through the same program differ in the server alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.buffering_hop import _Hop, _Pair
from tests.support.programs import free_port, require, running, wait_for_port

__all__ = ["Tap", "caddy", "caddy_of", "haproxy", "nginx", "nginx_of"]

_HOST = "127.0.0.1"


@contextlib.contextmanager
def nginx(directory: Path, *servers: str, more: str = "") -> Iterator[tuple[str, ...]]:
    """nginx with a bare `proxy_pass` to each of `servers` (URLs); `more` are directives beside it."""
    ports = [free_port() for _ in servers]
    blocks = "\n".join(
        f"server {{ listen {_HOST}:{port}; location / {{ proxy_pass {server}; {more} }} }}"
        for port, server in zip(ports, servers, strict=True)
    )
    with nginx_of(directory, blocks, *ports) as urls:
        yield urls


@contextlib.contextmanager
def nginx_of(directory: Path, section: str, *ports: int) -> Iterator[tuple[str, ...]]:
    """nginx with this `http` section, which listens on `ports`."""
    # What is not default only keeps it in the foreground and its files out of the system's folders.
    folders = "\n".join(
        f"{name}_temp_path {directory}/nginx-{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = directory / "nginx.conf"
    file.write_text(
        f"daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{folders}\n{section}\n}}\n"
    )
    command = [require("nginx"), "-e", "stderr", "-p", directory, "-c", file]
    with _serving(command, directory / "nginx.log", ports) as urls:
        yield urls


@contextlib.contextmanager
def haproxy(directory: Path, *servers: str, idle: str) -> Iterator[tuple[str, ...]]:
    """HAProxy with a `listen` section for each of `servers` and `idle` as client and server timeout."""
    ports = [free_port() for _ in servers]
    file = directory / "haproxy.cfg"
    file.write_text(
        f"defaults\n  mode http\n  timeout connect 5s\n  timeout client {idle}\n  timeout server {idle}\n"
        + "".join(
            f"listen way{port}\n  bind {_HOST}:{port}\n  server only {urlsplit(server).netloc}\n"
            for port, server in zip(ports, servers, strict=True)
        )
    )
    with _serving([require("haproxy"), "-db", "-f", file], directory / "haproxy.log", ports) as urls:
        yield urls


@contextlib.contextmanager
def caddy(directory: Path, *servers: str, more: str = "") -> Iterator[tuple[str, ...]]:
    """Caddy with a `reverse_proxy` to each of `servers`; `more` are lines of its block."""
    ports = [free_port() for _ in servers]
    sites = "\n".join(
        f"http://:{port} {{\nbind {_HOST}\nreverse_proxy {urlsplit(server).netloc} {{\n{more}\n}}\n}}"
        for port, server in zip(ports, servers, strict=True)
    )
    with caddy_of(directory, sites, *ports) as urls:
        yield urls


@contextlib.contextmanager
def caddy_of(directory: Path, sites: str, *ports: int) -> Iterator[tuple[str, ...]]:
    """Caddy with these sites, which listen on `ports`."""
    file = directory / "Caddyfile"
    file.write_text(f"{{\nadmin off\nauto_https off\ngrace_period 1s\n}}\n{sites}\n")
    home = {name: str(directory) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    command = [require("caddy"), "run", "--adapter", "caddyfile", "--config", file]
    with _serving(command, directory / "caddy.log", ports, home) as urls:
        yield urls


@contextlib.contextmanager
def _serving(
    command: Sequence[str | Path], log_file: Path, ports: Sequence[int], env: dict[str, str] | None = None
) -> Iterator[tuple[str, ...]]:
    with running(command, port=None, log_file=log_file, env={**os.environ, **(env or {})}) as program:
        for port in ports:
            wait_for_port(program, port)
        yield tuple(f"http://{_HOST}:{port}" for port in ports)


class Tap(_Hop):
    """Passes everything on as it comes, and keeps it: what was asked and what was answered."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.asked = bytearray()
        self.answered = bytearray()

    async def respond(self, server: asyncio.StreamReader, pair: _Pair) -> None:
        """From the server to the client."""
        await _pass(server, pair.near, self.answered)

    async def _request(self, client: asyncio.StreamReader, far: asyncio.StreamWriter) -> None:
        await _pass(client, far, self.asked)


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter, kept: bytearray) -> None:
    while data := await source.read(65536):
        kept += data
        target.write(data)
        await target.drain()
