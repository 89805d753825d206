"""Addresses to listen on and addresses of upstreams."""

from __future__ import annotations

import pytest

from sse_keepalive_proxy.config import ListenAddress, UpstreamAddress
from sse_keepalive_proxy.config.types.address import parse_listen, parse_upstream


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8080", ListenAddress("0.0.0.0", 8080)),
        (":8080", ListenAddress(None, 8080)),
        ("[::1]:8080", ListenAddress("::1", 8080)),
        ("localhost:0", ListenAddress("localhost", 0)),
        ("unix:/run/proxy.sock", ListenAddress(None, None, "/run/proxy.sock")),
    ],
)
def test_a_listen_address_is_read_and_shown_as_written(text: str, address: ListenAddress) -> None:
    assert parse_listen(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (8080, "must be an address"),
        ("8080", "needs a port"),
        ("localhost", "needs a port"),
        ("::1:8080", "needs brackets"),
        ("[::1:8080", "needs brackets"),
        ("[zz]:80", "not an IPv6 address"),
        ("256.1.1.1:80", "not an IPv4 address"),
        ("a b:80", "not a host name"),
        ("localhost:65536", "a port is a number from 0 to 65535"),
        ("localhost:http", "a port is a number"),
        ("http://localhost:80", "needs brackets"),
        ("unix:proxy.sock", "an absolute path"),
        ("unix:/", "an absolute path"),
        ("unix:/" + "a" * 107, "at most 107 bytes"),
    ],
)
def test_a_wrong_listen_address_is_refused_with_the_reason(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_listen(value)


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        (":8080", ":8080", True),
        (":8080", "127.0.0.1:8080", True),
        (":8080", "[::1]:8080", True),
        ("0.0.0.0:8080", "127.0.0.1:8080", True),
        ("0.0.0.0:8080", "[::]:8080", False),
        ("127.0.0.1:8080", "127.0.0.2:8080", False),
        ("127.0.0.1:8080", "127.0.0.1:8081", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", ":8080", False),
    ],
)
def test_two_addresses_collide_when_both_could_not_be_bound(one: str, other: str, collide: bool) -> None:
    assert parse_listen(one).collides_with(parse_listen(other)) is collide
    assert parse_listen(other).collides_with(parse_listen(one)) is collide


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://notify:6687", UpstreamAddress("http", "notify", 6687, None, "")),
        ("https://Example.com", UpstreamAddress("https", "example.com", 443, None, "")),
        ("http://10.0.0.1/a/b/", UpstreamAddress("http", "10.0.0.1", 80, None, "/a/b")),
        ("http://[::1]:1/", UpstreamAddress("http", "::1", 1, None, "")),
        ("http://notify_server/a@b", UpstreamAddress("http", "notify_server", 80, None, "/a@b")),
        ("unix:/run/notify.sock", UpstreamAddress("unix", None, None, "/run/notify.sock", "")),
    ],
)
def test_an_upstream_url_is_taken_apart(url: str, address: UpstreamAddress) -> None:
    assert parse_upstream(url) == address


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://notify:6687", "notify:6687"),
        ("http://notify:80", "notify"),
        ("https://notify:80", "notify:80"),
        ("http://[::1]:81", "[::1]:81"),
        ("unix:/run/a", "localhost"),
    ],
)
def test_an_upstream_has_an_authority_for_its_host_header(url: str, authority: str) -> None:
    assert parse_upstream(url).authority == authority


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (80, "must be a URL"),
        ("notify:6687", "must begin with http://"),
        ("ftp://notify", "must begin with http://"),
        ("http://user:hunter2@notify", "credentials in the URL"),
        ("http://notify?token=hunter2", "a query in the URL"),
        ("http://notify/#top", "a fragment in the URL"),
        ("http://", "not a URL"),
        ("http://:80", "not a URL"),
        ("http://notify:0", "a port is a number from 1"),
        ("http://notify:port", "not a URL"),
        ("http://no tify", "not a host name"),
        ("http://notify/a b", "percent-encoded"),
        ("http://notify/%zz", "percent-encoded"),
        ("http://notify\n.evil", "not a host name"),
    ],
)
def test_a_wrong_upstream_url_is_refused_without_being_quoted(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_upstream(value)
    assert "hunter2" not in str(caught.value)
