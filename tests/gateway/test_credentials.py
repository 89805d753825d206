"""Where credentials are found in a request, and the mark by which they are known again."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.gateway.credentials import FINGERPRINT_SIZE, fingerprint, values
from sse_keepalive_proxy.http.headers import Header
from tests.http.asking import incoming
from tests.wire.effort import grows_no_faster_than_linear

KEY = bytes(range(32))
PLACES = ("query:access_token", "header:authorization", "header:cookie")


def mark(
    target: str = "/events",
    *headers: Header,
    key: bytes = KEY,
    route: str = "events",
    places: Sequence[str] = PLACES,
    client: str = "192.0.2.1",
) -> bytes:
    return fingerprint(key, route, incoming(target, headers), places, client)


# Finding them.


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("/events", []),
        ("/events?", []),
        ("/events?other=1", []),
        ("/events?access_token=a.b.c", [b"a.b.c"]),
        ("/events?x=1&access_token=a&y=2", [b"a"]),
        ("/events?access_token=b&access_token=a", [b"b", b"a"]),
        ("/events?access_token", [b""]),
        ("/events?access_token=", [b""]),
        ("/events?access_token=a=b==", [b"a=b=="]),
        ("/events?access_token=a+b%20c%2Bd", [b"a b c+d"]),
        ("/events?access%5Ftoken=a", [b"a"]),
        ("/events?%61ccess_token=%61", [b"a"]),
        ("/events?access_token=%ff%C3%A9", [b"\xff\xc3\xa9"]),
        ("/events?access_token=%zz%", [b"%zz%"]),
        ("/events?access_token=a?access_token=b", [b"a?access_token=b"]),
        ("/events?a?access_token=b", []),
        ("/events?Access_Token=a", []),
        ("/events?access_token=a;access_token=b", [b"a;access_token=b"]),
        ("/access_token=a", []),
        ("/events;access_token=a", []),
        ("/events?&&access_token=a&", [b"a"]),
        ("*", []),
    ],
)
def test_a_query_is_read_as_forms_write_it(target: str, found: list[bytes]) -> None:
    assert values(incoming(target), "query:access_token") == found


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("query:a%20b", "/?a+b=1"),
        ("query:a+b", "/?a%20b=1"),
        ("query:a:b", "/?a:b=1"),
        ("query:token[]", "/?token%5B%5D=1"),
        ("query:%2B", "/?%2b=1"),
        ("query:%2B%26%3D%25", "/?%2B%26%3d%=1"),
        ("query:%2B%26%3D%25", "/?+&==2&%2B%26%3D%25=1&%2B%26%3D%253D=3"),
        ("query:a%zz", "/?a%zz=1&a%zz1=2"),
        ("query:\u00e9", "/?%C3%a9=1"),
        ("query:\u00e9", "/?\u00c3\u00a9=1"),
    ],
)
def test_a_name_is_written_in_the_configuration_as_in_a_url(place: str, target: str) -> None:
    assert values(incoming(target), place) == [b"1"]


@given(
    name=st.text("aA%+ 4126=&\u00e9", min_size=1, max_size=4),
    parts=st.lists(st.text("aA%+4126=\u00c3\u00a9", max_size=8), max_size=4),
)
def test_names_are_compared_after_they_are_decoded(name: str, parts: list[str]) -> None:
    def decoded(text: str) -> bytes:
        return unquote_to_bytes(text.replace("+", " ").encode("latin-1"))

    wanted = unquote_to_bytes(name.replace("+", " "))
    split = [part.partition("=") for part in parts]
    expected = [decoded(value) for written, _, value in split if decoded(written) == wanted]
    assert values(incoming("/?" + "&".join(parts)), f"query:{name}") == expected


def test_the_work_to_find_a_credential_grows_with_the_query() -> None:
    def work(count: int) -> None:
        for part in ("&", "&a", "&%61", "&access_token", "&access_token=", "access_token", "%"):
            values(incoming("/?" + part * count), "query:access_token")

    assert grows_no_faster_than_linear(work, 300)


def test_a_query_is_scanned_and_not_taken_apart() -> None:
    request = incoming("/?" + "ab&" * 10_000)
    values(request, "query:access_token")
    tracemalloc.start()
    try:
        values(request, "query:access_token")
        assert tracemalloc.get_traced_memory()[1] < 5 * len(request.target)
    finally:
        tracemalloc.stop()


def test_a_credential_is_found_wherever_it_stands() -> None:
    assert values(incoming("/?" + "&" * 30_000 + "access_token=a"), "query:access_token") == [b"a"]
    assert values(incoming("/?" + "a&" * 10_000 + "access_token&b"), "query:access_token") == [b""]


def test_a_header_is_found_in_any_case_with_every_value_in_order() -> None:
    headers = [(b"Cookie", b"b=2"), (b"X-Cookie", b"no"), (b"COOKIE", b"a=1; \xe9"), (b"cookie", b"")]
    for place in ("header:cookie", "header:Cookie"):
        assert values(incoming("/?cookie=3", headers), place) == [b"b=2", b"a=1; \xe9", b""]
    assert values(incoming("/?cookie=3"), "header:cookie") == []


# Knowing them again.


def test_the_same_credentials_are_known_again_wherever_the_client_is() -> None:
    target = "/events?access_token=a"
    assert mark(target) == mark(target, client="198.51.100.7") == mark(f"{target}&t=1", (b"Accept", b"x"))
    assert mark("/events?access_token=%61") == mark(target)
    assert len(mark(target)) == FINGERPRINT_SIZE == 16


def test_without_a_credential_the_clients_address_stands_in() -> None:
    assert mark() == mark("/other?x=1", (b"Accept", b"x"))
    assert mark() != mark(client="198.51.100.7")


@pytest.mark.parametrize(
    "target", ["/events?access_token=", "/events?access_token", "/events?access_token=&x"]
)
def test_an_empty_credential_is_none(target: str) -> None:
    assert mark(target) == mark()
    assert mark(target, (b"Authorization", b"")) == mark()
    assert mark(target, client="a") != mark(target, client="b")


def test_all_that_differs_makes_another_mark() -> None:
    a, b, cookie = (b"Authorization", b"a"), (b"Authorization", b"b"), (b"Cookie", b"a")
    marks = [
        mark(),
        mark(client=""),
        mark(client="a"),
        mark(route="other"),
        mark(key=b"another"),
        mark("/?access_token=a"),
        mark("/?access_token=A"),
        mark("/?access_token=a", route="other"),
        mark("/?access_token=a", key=b"another"),
        mark("/?access_token=a", places=PLACES[:1]),
        mark("/?access_token=a&access_token=a"),
        mark("/?access_token=a&access_token="),
        mark("/?access_token=a&access_token=b"),
        mark("/?access_token=b&access_token=a"),
        mark("/?access_token=ab"),
        mark("/", a),
        mark("/", b),
        mark("/", a, b),
        mark("/", b, a),
        mark("/", cookie),
        mark("/", a, cookie),
        mark("/?access_token=a", a, cookie),
    ]
    assert len(set(marks)) == len(marks)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["authorization", "cookie", "x"]), st.binary(max_size=3)), max_size=4),
    st.lists(st.tuples(st.sampled_from(["authorization", "cookie", "x"]), st.binary(max_size=3)), max_size=4),
    st.text("ab", max_size=2),
    st.text("ab", max_size=2),
)
def test_two_requests_have_one_mark_only_if_their_credentials_are_the_same(
    one: list[tuple[str, bytes]], two: list[tuple[str, bytes]], client: str, other: str
) -> None:
    def seen(headers: list[tuple[str, bytes]], address: str) -> object:
        found = [
            [value for name, value in headers if name == place.partition(":")[2]] for place in PLACES[1:]
        ]
        return found if any(value for given_values in found for value in given_values) else address

    marks = [
        mark("/", *((name.encode(), value) for name, value in headers), places=PLACES[1:], client=address)
        for headers, address in ((one, client), (two, other))
    ]
    assert (marks[0] == marks[1]) == (seen(one, client) == seen(two, other))


def test_a_credential_that_looks_like_an_address_is_not_one() -> None:
    assert mark("/?access_token=192.0.2.1", places=PLACES[:1]) != mark(client="192.0.2.1")


def test_values_cannot_be_cut_or_placed_differently_under_one_mark() -> None:
    one, other = (b"X", b"header:y"), (b"Y", b"header:y")
    assert mark("/", one, places=("header:x", "header:y")) != mark(
        "/", other, places=("header:x", "header:y")
    )
    assert mark("/?access_token=a&access_token=bc") != mark("/?access_token=ab&access_token=c")
    same = [(b"Authorization", b"a"), (b"Cookie", b"a")]
    assert mark("/", *same, places=PLACES[1:2]) != mark("/", *same, places=PLACES[2:])


def test_a_mark_cannot_be_turned_back_without_the_key() -> None:
    target = "/?access_token=secret"
    assert mark(target, key=b"k" * 64) not in {mark(target), mark(target, key=b""), mark(target, key=b"k")}
    assert b"secret" not in mark(target)
