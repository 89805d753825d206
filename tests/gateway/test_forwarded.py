"""Forwarding headers: whose are believed, and who the client is."""

from __future__ import annotations

import gc
import weakref
from ipaddress import ip_network

import pytest

from sse_keepalive_proxy.gateway.forwarded import Trust
from tests.http.test_headers import fields

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


def trust(*networks: str, header: str = "X-Forwarded-For") -> Trust:
    return Trust([ip_network(network) for network in networks], header)


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


@pytest.mark.parametrize(("lines", "client"), CHAINS)
def test_the_client_is_the_rightmost_address_that_is_not_trusted(lines: list[str], client: str) -> None:
    assert trust("127.0.0.0/8").client("127.0.0.1", fields(*lines)) == client


def test_of_a_long_chain_the_last_addresses_are_read() -> None:
    for count, client in ((31, "1.1.1.1"), (32, "127.0.0.0")):
        chain = ", ".join(["1.1.1.1", *[f"127.0.0.{number}" for number in range(count)]])
        assert trust("127.0.0.0/8").client("127.0.0.1", fields(f"X-Forwarded-For: {chain}")) == client


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


def test_replaced_headers_are_logged_once_for_each_peer_with_the_key_that_would_trust_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked, claims = trust("127.0.0.0/8"), fields("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https")
    for peer in ("9.9.9.9", "127.0.0.1", "9.9.9.8", "9.9.9.9"):
        asked.forward(peer, b"http", b"a", claims)
    asked.forward("9.9.9.7", b"http", b"a", fields("A: 1"))
    assert [record.__dict__["fields"] for record in caplog.records] == [
        {"peer": "9.9.9.9"},
        {"peer": "9.9.9.8"},
    ]
    assert "`trusted_proxies`" in caplog.text


def test_a_thousand_peers_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    asked = trust()
    for number in range(1000):
        asked.forward(f"9.9.{number // 250}.{number % 250}", b"http", b"a", fields("X-Real-IP: 6.6.6.6"))
    assert len(caplog.records) == 100


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
def test_a_lookalike_with_underscores_is_dropped_even_from_a_trusted_peer(name: str, peer: str) -> None:
    forwarded = trust("127.0.0.0/8").forward(peer, b"http", b"a", fields(f"{name}: 6.6.6.6"))
    assert forwarded == trust("127.0.0.0/8").forward(peer, b"http", b"a", [])


def test_it_is_released_with_its_configuration_and_leaves_no_cycle() -> None:
    made = trust("127.0.0.0/8")
    assert made.believes("127.0.0.1")
    answers = weakref.ref(made.believes)
    gc.disable()
    try:
        del made
        assert answers() is None
    finally:
        gc.enable()
