"""Find the route of a request: the first one that matches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from sse_keepalive_proxy.config import Match, PathTable

__all__ = ["RouteTable", "host_name"]


class HasMatch(Protocol):
    """An object with a `match`."""

    @property
    def match(self) -> Match:
        """The requests that the route accepts."""


R = TypeVar("R", bound=HasMatch)


class RouteTable(Generic[R]):
    """Routes in their order."""

    def __init__(self, routes: Iterable[R] = ()) -> None:
        self._paths: PathTable[R] = PathTable()
        self.extend(routes)

    def extend(self, routes: Iterable[R]) -> None:
        """Append `routes`."""
        for route in routes:
            self._paths.add(route.match.path, route)

    def find(self, *, method: str, path: str, host: str) -> R | None:
        """Return the first route that accepts the request, or None.

        `path` is as received, without the query. `host` is without the port.
        """
        for route in self._paths.taking(path):
            if route.match.takes(method=method, host=host):
                return route
        return None


def host_name(host: str) -> str:
    """Return a `Host` value in lower case, without the port and without the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
