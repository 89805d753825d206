"""Socket activation: listening sockets that the service manager (systemd) opened for this process.

The protocol is sd_listen_fds(3): `LISTEN_FDS` descriptors from 3 upwards, for the process `LISTEN_PID`. A
restarted service gets the same sockets again. Clients that connect during the restart wait in their backlog.
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
    """The sockets of the service manager. `take` returns one by its address. `any`: there were some."""

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        self._left = {(sock.family, _place(sock.getsockname())): sock for sock in sockets}
        self._taken: set[str] = set()
        self.any = bool(self._left)

    def take(self, family: int, where: object) -> socket.socket | None:
        """Return the socket that listens on `where`, a result of `getsockname`, or None."""
        place = _place(where)
        sock = self._left.pop((socket.AddressFamily(family), place), None)
        if sock is not None and isinstance(place, str):
            self._taken.add(place)
        return sock

    def owns(self, path: str) -> bool:
        """Return whether the Unix socket at `path` belongs to the service manager."""
        return path in self._taken

    def close(self) -> None:
        """Close the sockets that were not taken, with a warning for each."""
        while self._left:
            (_, place), sock = self._left.popitem()
            sock.close()
            where = f"unix:{place}" if isinstance(place, str) else f"port {place[1]} of {place[0]}"
            logger.warning(
                "a socket of LISTEN_FDS is closed: neither `listen` nor `admin.listen` names its address",
                extra={"fields": {"address": where}},
            )


def handed_over(environ: MutableMapping[str, str]) -> HandedOver:
    """Return the sockets of the service manager according to `environ`. Remove the variables, because a child
    process does not have these sockets.
    """
    pid, count, _ = (environ.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return HandedOver()
    found = (_listening(descriptor) for descriptor in range(_FIRST, _FIRST + int(count)))
    return HandedOver(sock for sock in found if sock is not None)


def _listening(descriptor: int) -> socket.socket | None:
    """Return the socket of `descriptor`. Close it, with a warning, if it is not a listening socket."""
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
    logger.warning("a descriptor of LISTEN_FDS is not a listening stream socket", extra={"fields": fields})
    return None


def _place(name: object) -> str | tuple[str, int]:
    """Return the part of a socket's address that operators write: a path, or host and port."""
    if isinstance(name, tuple):
        return str(name[0]), int(name[1])
    return os.fsdecode(name) if isinstance(name, bytes) else str(name)
