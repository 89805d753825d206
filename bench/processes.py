"""Runs what is measured: on one core, until it listens, and ended by its process id."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Running", "StartFailed", "free_port", "on_core", "origin_port", "start"]

_HOST = "127.0.0.1"
_STOP_WITHIN = 5.0


class StartFailed(Exception):
    """A program did not come to listen. Its text has the end of what it wrote."""


def free_port() -> int:
    """A TCP port of loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def origin_port() -> int:
    """A free port below those that the kernel takes for outgoing connections.

    While the origin is away, the proxy tries its port again and again. From that range one of these
    connections might get this very port as its own, and be connected with itself.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(1024, lowest), 50):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((_HOST, port))
            return port
    raise StartFailed(f"no free port below {lowest}")


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Programs started in the block run on `core` alone, with all that they start themselves.

    This thread moves there for the moment, and they inherit it: to pin them once they run would miss the
    threads that they have by then.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Running:
    """A program that listens on `port`. `admin_port` is 0 where there is no such listener."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    admin_port: int
    log: Path

    def pids(self) -> list[int]:
        """Its own id and those of all that it started: each is the leader of a session of its own."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self.process.pid and fields[0] != "Z":
                        found.append(int(entry.name))
        return sorted(found)

    def stop(self) -> None:
        """SIGTERM, and what is left after some seconds is killed, id by id."""
        family = self.pids()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_WITHIN)
        for pid in set(family) & set(self.pids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def start(
    name: str,
    command: Sequence[str],
    *,
    port: int,
    admin_port: int = 0,
    core: int,
    log: Path,
    env: Mapping[str, str],
    cwd: Path,
    files: int | None = None,
    within: float = 20.0,
) -> Iterator[Running]:
    """Run `command` until the block ends; it listens by then. `files` is its limit of descriptors.

    Raises StartFailed when it ends early or does not listen within so many seconds.
    """
    if files is not None:  # by a shell, which becomes the program
        command = ["/bin/sh", "-c", 'ulimit -n "$0" && exec "$@"', str(files), *command]
    with log.open("wb") as output, on_core(core):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    running = Running(name, process, port, admin_port, log)
    try:
        _wait_until_it_listens(running, within)
        time.sleep(0.3)  # what it does once it listens is not the load's
        yield running
    finally:
        running.stop()


def _wait_until_it_listens(running: Running, within: float) -> None:
    give_up_at = time.monotonic() + within
    while time.monotonic() < give_up_at:
        if (code := running.process.poll()) is not None:
            raise StartFailed(f"it ended with {code}: {_tail(running.log)}")
        with contextlib.suppress(OSError), socket.create_connection((_HOST, running.port), timeout=1):
            return
        time.sleep(0.05)
    raise StartFailed(f"it does not listen after {within:.0f} s: {_tail(running.log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").replace(f"{log.parent}/", "").split("\n")
    return " / ".join(line.strip() for line in lines if line.strip())[-300:] or "it wrote nothing"
