"""Which route answers a request: the first that matches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from sse_keepalive_proxy.config import Match, PathTable

__all__ = ["RouteTable", "host_name"]


class HasMatch(Protocol):
    """Anything with a route's `match`."""

    @property
    def match(self) -> Match:
        """What the route takes."""


R = TypeVar("R", bound=HasMatch)


class RouteTable(Generic[R]):
    """Routes in their order."""

    def __init__(self, routes: Iterable[R] = ()) -> None:
        self._paths: PathTable[R] = PathTable()
        self.extend(routes)

    def extend(self, routes: Iterable[R]) -> None:
        """Put `routes` after those that are there."""
        for route in routes:
            self._paths.add(route.match.path, route)

    def find(self, *, method: str, path: str, host: str) -> R | None:
        """The first route that takes the request, None when none does.

        `path` is as received, without its query; `host` without its port.
        """
        for route in self._paths.taking(path):
            if route.match.takes(method=method, host=host):
                return route
        return None


def host_name(host: str) -> str:
    """A `Host` value without its port, in lower case; an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
