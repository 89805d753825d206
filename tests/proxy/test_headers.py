"""Header fields on their way through: which end here, which are vouched for, what a stream's head says."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from sse_keepalive_proxy.proxy.headers import (
    Header,
    Trust,
    connection_tokens,
    encode_head,
    end_to_end,
    stream_head,
)

HOP_BY_HOP = [
    "Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
]


def fields(*lines: str) -> list[Header]:
    """Header lines (`Name: value`) as raw fields."""
    pairs = (line.partition(":") for line in lines)
    return [(name.encode(), value.strip().encode("latin-1")) for name, _, value in pairs]


def trust(*networks: str, header: str = "X-Forwarded-For") -> Trust:
    return Trust([ip_network(network) for network in networks], header)


# What passes from one connection to the other.


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_a_hop_by_hop_field_ends_here_in_any_case(name: str) -> None:
    given = fields("A: 1", f"{name}: x", f"{name.upper()}: x", f"{name.lower()}: x", "B: 2")
    assert end_to_end(given) == fields("A: 1", "B: 2")


@pytest.mark.parametrize("name", [name for name in HOP_BY_HOP if "-" in name] + ["Content-Length"])
def test_what_a_server_that_takes_underscores_for_hyphens_would_read_as_one_ends_here_too(name: str) -> None:
    assert end_to_end(fields(f"{name.replace('-', '_')}: x", "A_B: 1")) == fields("A_B: 1")


def test_all_else_keeps_its_order_its_case_its_repeats_and_its_bytes() -> None:
    given = fields("set-cookie: a=1", "X-ONE: é", "Set-Cookie: b=2", "x-one:", "Content-Length: 3", "Host: a")
    assert end_to_end(given) == given


@pytest.mark.parametrize(
    "connection",
    [
        ["Connection: x-one, X-TWO"],
        ["Connection: X-One", "connection:x-two ,"],
        ["CONNECTION: ,x-one,,x-two"],
    ],
)
def test_fields_named_in_connection_end_here(connection: list[str]) -> None:
    assert end_to_end(fields("X-One: 1", *connection, "x-two: 2", "X-Three: 3")) == fields("X-Three: 3")


def test_naming_host_or_a_length_in_connection_takes_neither_out() -> None:
    given = fields("Host: a", "Content-Length: 3")
    assert end_to_end([*given, *fields("Connection: host, content-length")]) == given


def test_the_tokens_of_every_connection_field_count() -> None:
    given = fields("Connection: keep-alive, Upgrade", "connection: X-One", "Other: x-two")
    assert connection_tokens(given) == {b"keep-alive", b"upgrade", b"x-one"}


def test_a_head_is_written_line_by_line() -> None:
    head = encode_head(b"GET / HTTP/1.1", fields("A: 1", "B:"))
    assert head == b"GET / HTTP/1.1\r\nA: 1\r\nB: \r\n\r\n"
    assert encode_head(b"HTTP/1.1 204 ", []) == b"HTTP/1.1 204 \r\n\r\n"


# The head of a stream.


def test_a_streams_head_loses_what_would_be_a_lie_about_its_body() -> None:
    given = fields("Content-Length: 3", "ETag: x", "Content-Encoding: identity", "X-Accel-Buffering: yes")
    assert stream_head(given) == fields("Cache-Control: no-cache, no-transform", "X-Accel-Buffering: no")


@pytest.mark.parametrize(
    ("upstream", "merged"),
    [
        ([], "no-cache, no-transform"),
        (["Cache-Control: no-cache"], "no-cache, no-transform"),
        (["cache-control: NO-Transform"], "NO-Transform, no-cache"),
        (["Cache-Control: private, max-age=0"], "private, max-age=0, no-cache, no-transform"),
        (["Cache-Control: no-store,", "Cache-Control:no-cache"], "no-store, no-cache, no-transform"),
    ],
)
def test_cache_control_is_merged_into_one_field(upstream: list[str], merged: str) -> None:
    head = stream_head(fields(*upstream, "Content-Type: text/event-stream"))
    assert head == fields(
        "Content-Type: text/event-stream", f"Cache-Control: {merged}", "X-Accel-Buffering: no"
    )


# Whose forwarding fields are believed.


@pytest.mark.parametrize(
    ("peer", "believed"),
    [
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::ffff:127.0.0.1", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::2", False),
        ("not an address", False),
        ("", True),  # a unix socket
    ],
)
def test_a_peer_is_believed_by_its_network(peer: str, believed: bool) -> None:
    assert trust("127.0.0.0/8", "::1/128").believes(peer) is believed


def test_without_networks_no_peer_is_believed() -> None:
    assert not trust().believes("127.0.0.1")


CHAINS = [
    ([], "127.0.0.1"),
    (["X-Forwarded-For: 1.1.1.1"], "1.1.1.1"),
    (["X-Forwarded-For: 6.6.6.6, 1.1.1.1"], "1.1.1.1"),
    (["X-Forwarded-For: 6.6.6.6, 1.1.1.1, 127.0.0.9"], "1.1.1.1"),
    (["X-Forwarded-For: 6.6.6.6", "x-forwarded-for: 1.1.1.1,127.0.0.9"], "1.1.1.1"),
    (["X-Forwarded-For: 127.0.0.8, 127.0.0.9"], "127.0.0.8"),
    (["X-Forwarded-For: 2001:db8::1"], "2001:db8::1"),
    (["X-Forwarded-For: ::ffff:127.0.0.9, ::ffff:127.0.0.2"], "::ffff:127.0.0.9"),
    (["X-Forwarded-For: 6.6.6.6, unknown"], "127.0.0.1"),
    (["X-Forwarded-For: 6.6.6.6, , 127.0.0.9"], "127.0.0.9"),
    (["X-Forwarded-For:"], "127.0.0.1"),
    (["CF-Connecting-IP: 6.6.6.6"], "127.0.0.1"),
]


@pytest.mark.parametrize(("lines", "client"), CHAINS)
def test_the_client_is_the_rightmost_address_that_is_not_trusted(lines: list[str], client: str) -> None:
    assert trust("127.0.0.0/8").client("127.0.0.1", fields(*lines)) == client


def test_what_an_unknown_peer_says_of_the_client_is_not_heard() -> None:
    assert trust("127.0.0.0/8").client("9.9.9.9", fields("X-Forwarded-For: 1.1.1.1")) == "9.9.9.9"


def test_another_header_names_the_client_only_when_it_is_chosen() -> None:
    given = fields("X-Forwarded-For: 6.6.6.6", "CF-Connecting-IP: 1.1.1.1")
    assert trust("127.0.0.0/8", header="CF-Connecting-IP").client("127.0.0.1", given) == "1.1.1.1"
    assert trust("127.0.0.0/8").client("127.0.0.1", given) == "6.6.6.6"


def test_an_unknown_peer_has_its_claims_replaced() -> None:
    claims = fields(
        "Forwarded: for=6.6.6.6",
        "X-Forwarded-For: 6.6.6.6",
        "x-forwarded-proto: https",
        "X-FORWARDED-HOST: evil",
        "X-Forwarded-Port: 1",
        "X-Forwarded-Prefix: /x",
        "X-Real-IP: 6.6.6.6",
        "A: 1",
    )
    assert trust().forward("9.9.9.9", b"http", b"a", claims) == fields(
        "A: 1", "X-Forwarded-For: 9.9.9.9", "X-Forwarded-Proto: http", "X-Forwarded-Host: a"
    )


def test_a_believed_peers_claims_are_kept_and_its_own_address_is_appended() -> None:
    claims = fields(
        "Forwarded: for=1.1.1.1",
        "X-Forwarded-For: 6.6.6.6, 1.1.1.1",
        "X-Forwarded-For: 127.0.0.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: public.example",
        "X-Real-IP: 1.1.1.1",
    )
    assert trust("127.0.0.0/8").forward("127.0.0.1", b"http", b"a", claims) == fields(
        "Forwarded: for=1.1.1.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: public.example",
        "X-Real-IP: 1.1.1.1",
        "X-Forwarded-For: 6.6.6.6, 1.1.1.1, 127.0.0.9, 127.0.0.1",
    )


def test_a_believed_peer_that_says_nothing_is_spoken_for() -> None:
    assert trust("127.0.0.0/8").forward("127.0.0.1", b"https", b"a:1", []) == fields(
        "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: a:1"
    )


def test_a_peer_on_a_unix_socket_adds_no_address() -> None:
    assert trust().forward("", b"http", b"a", fields("X-Forwarded-For: 1.1.1.1")) == fields(
        "X-Forwarded-For: 1.1.1.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: a"
    )
    assert trust().forward("", b"http", b"a", []) == fields("X-Forwarded-Proto: http", "X-Forwarded-Host: a")


def test_the_header_that_names_the_client_is_a_claim_as_well() -> None:
    chosen = trust(header="CF-Connecting-IP")
    forwarded = chosen.forward("9.9.9.9", b"http", b"a", fields("cf-connecting-ip: 6.6.6.6"))
    assert b"6.6.6.6" not in [value for _, value in forwarded]
    left = trust().forward("9.9.9.9", b"http", b"a", fields("CF-Connecting-IP: 1.1.1.1"))
    assert fields("CF-Connecting-IP: 1.1.1.1")[0] in left


@pytest.mark.parametrize("name", ["X_Forwarded_For", "x-forwarded_proto", "X_Real-IP", "x_forwarded_host"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "9.9.9.9"])
def test_a_lookalike_with_underscores_reaches_nobody_not_even_from_a_believed_peer(
    name: str, peer: str
) -> None:
    forwarded = trust("127.0.0.0/8").forward(peer, b"http", b"a", fields(f"{name}: 6.6.6.6"))
    assert forwarded == trust("127.0.0.0/8").forward(peer, b"http", b"a", [])
