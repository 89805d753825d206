"""Who is measured, where its program is found, and how it is run. The configurations are in `configs/`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.machine import Cores, descriptor_limit
from bench.processes import Running, free_port, start

__all__ = [
    "BASE",
    "COMPILED",
    "INTERPRETED",
    "OWN",
    "PEERS",
    "PROXY",
    "TITLES",
    "Stage",
    "find",
    "version_of",
]

BASE = "nginx"  # what everybody is compared with
PROXY = "proxy"  # as it stands in its checkout
COMPILED, INTERPRETED = "compiled", "interpreted"  # as they are installed
OWN = (PROXY, COMPILED, INTERPRETED)
TITLES = {
    "limit": "bare relay in C",
    "nginx": "nginx",
    "haproxy": "HAProxy",
    "caddy": "Caddy",
    "envoy": "Envoy",
    PROXY: "sse-keepalive-proxy",
    COMPILED: "sse-keepalive-proxy, compiled",
    INTERPRETED: "sse-keepalive-proxy, interpreted",
}
PEERS = tuple(name for name in TITLES if name not in OWN)

_CONFIGS = Path(__file__).parent / "configs"
_FILES = {
    "nginx": "nginx.conf",
    "haproxy": "haproxy.cfg",
    "caddy": "Caddyfile",
    "envoy": "envoy.yaml",
    PROXY: "proxy.yaml",
}
_VERSION_FLAGS = {"nginx": "-v", "haproxy": "-v", "caddy": "version", "envoy": "--version"}
_OWN_VARIABLES = "SSE_KEEPALIVE_PROXY_"


def find(name: str) -> Path | None:
    """The program of a peer: on PATH, in the sbin folders, or beside this Python (where pip puts Envoy)."""
    folders = [os.environ.get("PATH", os.defpath), "/usr/local/sbin:/usr/sbin:/sbin"]
    path = os.pathsep.join([*folders, str(Path(sys.executable).parent)])
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def version_of(name: str, program: Path) -> str:
    """The first version number that the program tells of itself, or an empty text."""
    try:
        done = subprocess.run(
            [program, _VERSION_FLAGS[name]], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    number = re.search(r"\b\d+\.\d+(\.\d+)?\b", done.stdout + done.stderr)
    return number[0] if number else ""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where all of a run takes place: a folder for its files, the port of the origin, the cores."""

    folder: Path
    origin: int
    cores: Cores
    checkout: Path
    programs: dict[str, Path]  # of those peers that are there, the relay's too
    pythons: dict[str, Path]  # of those builds of this proxy that are measured; the first runs alone, too

    @contextlib.contextmanager
    def run(self, name: str) -> Iterator[Running]:
        """Run a peer, or this proxy with everything at its default, until the block ends."""
        if name in self.pythons:
            with self.run_proxy(name) as running:
                yield running
            return
        port = free_port()
        config = self._write(name, port=port) if name in _FILES else None
        env = {**os.environ, "GOMAXPROCS": "1", "HOME": str(self.folder)}  # the former is Caddy's
        with start(
            name,
            self._command(name, port, config),
            port=port,
            core=self.cores.proxy,
            log=self.folder / f"{name}.log",
            env=env,
            cwd=self.folder,
        ) as running:
            yield running

    @contextlib.contextmanager
    def run_proxy(
        self,
        name: str | None = None,
        *,
        reconnect: str = "resumable",
        routes: int = 1,
        files: int | None = None,
    ) -> Iterator[Running]:
        """Run a build of this proxy, the first unless it is named. `routes` is how many there are; the last
        is the one that matches.
        """
        name = name or next(iter(self.pythons))
        port, admin = free_port(), free_port()
        before = "\n".join(
            f"  - {{name: other-{number}, match: {{path: /other/{number}}}, upstream: origin, stream: {{}}}}"
            for number in range(1, routes)
        )
        config = self._write(PROXY, port=port, admin=admin, reconnect=reconnect, routes=before)
        env = {key: value for key, value in os.environ.items() if not key.startswith(_OWN_VARIABLES)}
        env["PYTHONPATH"] = str(self.checkout) if name == PROXY else ""
        with start(
            name,
            [str(self.pythons[name]), "-m", "sse_keepalive_proxy", "run", "-c", str(config)],
            port=port,
            admin_port=admin,
            core=self.cores.proxy,
            log=self.folder / f"{name}.log",
            env=env,
            cwd=self.folder,
            files=files,
            within=20 + routes / 100,
        ) as running:
            yield running

    def _write(self, name: str, **fields: object) -> Path:
        """The configuration of `name`, its `@fields@` filled in."""
        text = (_CONFIGS / _FILES[name]).read_text()
        files = descriptor_limit()
        fields = {
            "folder": self.folder,
            "origin": self.origin,
            "files": files,
            "connections": (files - 200) // 2,
            **fields,
        }
        for field, value in fields.items():
            text = text.replace(f"@{field}@", str(value))
        written = self.folder / _FILES[name]
        written.write_text(text)
        return written

    def _command(self, name: str, port: int, config: Path | None) -> list[str]:
        program, file = str(self.programs[name]), str(config)
        return {
            "limit": [program, str(port), str(self.origin)],
            "nginx": [program, "-e", "stderr", "-p", str(self.folder), "-c", file],
            "haproxy": [program, "-db", "-f", file],
            "caddy": [program, "run", "--adapter", "caddyfile", "--config", file],
            "envoy": [program, "-c", file, "--concurrency", "1", "-l", "error", "--use-dynamic-base-id"],
        }[name]
