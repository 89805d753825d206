"""The first route that matches answers; what it is compared with is what was received."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sse_keepalive_proxy.config import Match
from sse_keepalive_proxy.gateway.routes import RouteTable, host_name


@dataclass(frozen=True, slots=True)
class Route:
    name: str
    match: Match


ROUTES = [
    Route("events", Match(path="/events", methods=("GET",))),
    Route("chat", Match(path="/api/*", host=("chat.example", "*.chat.example"))),
    Route("api", Match(path="/api/*")),
    Route("rest", Match(path="/*", methods=("GET", "OPTIONS"))),
]


@pytest.mark.parametrize(
    ("method", "path", "host", "name"),
    [
        ("GET", "/events", "a", "events"),
        ("POST", "/events", "a", None),
        ("GET", "/events/", "a", "rest"),
        ("GET", "/Events", "a", "rest"),
        ("GET", "/%65vents", "a", "rest"),
        ("GET", "//events", "a", "rest"),
        ("GET", "/./events", "a", "rest"),
        ("GET", "/x/../events", "a", "rest"),
        ("GET", "/api/x", "chat.example", "chat"),
        ("GET", "/api/x", "CHAT.example", "chat"),
        ("GET", "/api/x", "eu.chat.example", "chat"),
        ("GET", "/api/x", "evilchat.example", "api"),
        ("PUT", "/api/", "a", "api"),
        ("GET", "/api", "a", "rest"),
        ("GET", "/", "", "rest"),
        ("OPTIONS", "*", "a", "rest"),
        ("DELETE", "/", "a", None),
    ],
)
def test_the_first_route_that_takes_the_request_answers(
    method: str, path: str, host: str, name: str | None
) -> None:
    found = RouteTable(ROUTES).find(method=method, path=path, host=host)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a.example", "a.example"),
        ("A.Example:8080", "a.example"),
        ("[::1]:8080", "::1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("", ""),
    ],
)
def test_a_host_is_compared_without_its_port_and_in_lower_case(host: str, name: str) -> None:
    assert host_name(host) == name
