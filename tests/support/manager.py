"""A service manager as systemd is one towards a socket-activated service (sd_listen_fds(3)).

with socket.create_server(("127.0.0.1", 0)) as listening, activated([listening], "run", …) as process:
    ...
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["activated"]

_EXECUTE = """
import fcntl, os, sys
found = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1].split(",") if number]
for place, number in enumerate(found, 3):
    os.dup2(number, place)
    os.close(number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(found)), LISTEN_FDNAMES="any")
os.execv(sys.executable, [sys.executable, "-m", "sse_keepalive_proxy", *sys.argv[2:]])
"""


@contextlib.contextmanager
def activated(
    sockets: Sequence[socket.socket], *command: str, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The command of the package, started with the descriptors of `sockets` from 3 on. It is killed at the
    end if it has not ended. `log` gets what it writes.
    """
    numbers = [sock.fileno() for sock in sockets]
    given = ",".join(map(str, numbers))
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", _EXECUTE, given, *command],
            pass_fds=numbers,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
