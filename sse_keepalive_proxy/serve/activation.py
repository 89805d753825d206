"""Listening sockets that the service manager has opened for this process: systemd's socket activation.

The protocol is that of sd_listen_fds(3): descriptors from 3 on, counted in `LISTEN_FDS`, for the process of
`LISTEN_PID`. A service that is restarted gets the same sockets again. Clients that connect meanwhile wait in
them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterable, MutableMapping

__all__ = ["HandedOver", "handed_over"]

logger = logging.getLogger("sse_keepalive_proxy.serve")

_FIRST = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class HandedOver:
    """The sockets that are not taken yet, by where they listen."""

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        self._left = {(sock.family, _place(sock.getsockname())): sock for sock in sockets}
        self._taken: set[str] = set()

    def take(self, family: int, where: object) -> socket.socket | None:
        """Return the socket that listens at `where`, as `getsockname` gives it; None without one."""
        place = _place(where)
        sock = self._left.pop((socket.AddressFamily(family), place), None)
        if sock is not None and isinstance(place, str):
            self._taken.add(place)
        return sock

    def owns(self, path: str) -> bool:
        """Return whether the Unix socket at `path` was handed over, and belongs to who did."""
        return path in self._taken

    def close(self) -> None:
        """Close those that are not taken, with a warning for each."""
        while self._left:
            (_, place), sock = self._left.popitem()
            sock.close()
            where = f"unix:{place}" if isinstance(place, str) else f"port {place[1]} of {place[0]}"
            logger.warning(
                "a socket of LISTEN_FDS is closed: neither `listen` nor `admin.listen` names its address",
                extra={"fields": {"address": where}},
            )


def handed_over(environ: MutableMapping[str, str]) -> HandedOver:
    """Return the sockets that `environ` says were handed over to this process. Its variables for that are
    removed, since a child process has no such sockets.
    """
    pid, count, _ = (environ.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return HandedOver()
    found = (_listening(descriptor) for descriptor in range(_FIRST, _FIRST + int(count)))
    return HandedOver(sock for sock in found if sock is not None)


def _listening(descriptor: int) -> socket.socket | None:
    """Return the socket of `descriptor`. What no client can connect to is closed, with a warning."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    else:
        if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.setblocking(False)
            sock.set_inheritable(False)
            return sock
        sock.close()
    fields = {"descriptor": descriptor}
    logger.warning("a descriptor of LISTEN_FDS is no listening stream socket", extra={"fields": fields})
    return None


def _place(name: object) -> str | tuple[str, int]:
    """The part of a socket's address that an operator writes: a path, or host and port."""
    if isinstance(name, tuple):
        return str(name[0]), int(name[1])
    return os.fsdecode(name) if isinstance(name, bytes) else str(name)
