"""Bind listening sockets, and raise the limit of file descriptors."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
from pathlib import Path

from sse_keepalive_proxy.config import ListenAddress
from sse_keepalive_proxy.errors import CannotListen
from sse_keepalive_proxy.serve.activation import HandedOver

__all__ = ["FileIdentity", "bind", "describe", "file_of", "forget", "raise_descriptor_limit"]

FileIdentity = tuple[int, int] | None
"""Device and inode."""

_BACKLOG = 4096
_REMEDIES = {
    errno.EADDRINUSE: "choose another address, or stop what uses this one",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE, a Unix socket write access to its folder",
    errno.EADDRNOTAVAIL: "this host has no such address",
    errno.ENOENT: "its folder does not exist",
}
_RESERVED = 128
"""Descriptors reserved for listeners, logs, name resolution, connections that are refused, and the admin
listener, whose connections have a limit of their own.
"""


def bind(
    address: ListenAddress, key: str, handed_over: HandedOver, *, reuse_port: bool = False
) -> list[socket.socket]:
    """Return the sockets that listen on `address`, at least one: those handed over, and new ones for the
    rest. With `reuse_port` other processes may listen on the same port.

    Raises `CannotListen`, which names `key` of the configuration.
    """
    try:
        return _bind(address, handed_over, reuse_port=reuse_port)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another address")
        if isinstance(error, socket.gaierror):
            remedy = "the host name cannot be resolved"
        raise CannotListen(
            f"{key}: cannot listen on {address}: {error.strerror or error}; {remedy}"
        ) from error


def file_of(address: ListenAddress) -> FileIdentity:
    """Return the identity of the Unix socket's file for `address`, or None."""
    if address.unix_path is None:
        return None
    with contextlib.suppress(OSError):
        found = Path(address.unix_path).stat()
        return found.st_dev, found.st_ino
    return None


def forget(address: ListenAddress, file: FileIdentity) -> None:
    """Remove the Unix socket's file for `address`, unless another process has replaced `file`."""
    if address.unix_path is not None and file is not None and file_of(address) == file:
        Path(address.unix_path).unlink(missing_ok=True)


def _bind(address: ListenAddress, handed_over: HandedOver, *, reuse_port: bool) -> list[socket.socket]:
    if address.unix_path is not None:
        given = handed_over.take(socket.AF_UNIX, address.unix_path)
        return [given or _bind_unix(Path(address.unix_path), take_over=reuse_port)]
    port = address.port or 0
    if address.host is None:
        for family, host in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):  # noqa: S104
            if (given := handed_over.take(family, (host, port))) is not None:
                return [given]
        with contextlib.suppress(OSError):
            if socket.has_dualstack_ipv6():
                return [_listen(socket.AF_INET6, ("::", port), dual=True, reuse_port=reuse_port)]
        return [_listen(socket.AF_INET, ("", port), reuse_port=reuse_port)]
    found = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    try:
        for family, where in dict.fromkeys((family, where) for family, _, _, _, where in found):
            given = handed_over.take(family, where)
            made.append(given or _listen(family, where, reuse_port=reuse_port))
    except OSError:
        for sock in made:
            sock.close()
        raise
    return made


def _listen(family: int, where: object, *, dual: bool = False, reuse_port: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
        made.bind(where)  # type: ignore[arg-type]
        made.listen(_BACKLOG)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def _bind_unix(path: Path, *, take_over: bool) -> socket.socket:
    """Listen on `path`. Replace an unused socket. With `take_over`, atomically replace a socket in use too.
    Other files are never replaced. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode):
            if not _answers(path):
                path.unlink()
            elif take_over:
                beside = path.with_name(f".{path.name}.{os.getpid()}")
                made = _listen(socket.AF_UNIX, str(beside))
                beside.replace(path)
                return made
    return _listen(socket.AF_UNIX, str(path))


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True  # its backlog is full
    return True


def describe(sock: socket.socket) -> str:
    """Return the address of `sock` as it is written in a configuration."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def raise_descriptor_limit() -> int:
    """Raise this process's limit of open files to its maximum. Return how many are left for connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 1 << 20)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return max(soft - _RESERVED, 16)
