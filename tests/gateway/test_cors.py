"""The CORS headers of a route: exactly one voice, and only for pages that were named."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.gateway.cors import Cors, preflight_method
from sse_keepalive_proxy.http.headers import Header

APP = "https://app.example.com"
OTHER = "http://localhost:1420"


def fields(*lines: str) -> list[Header]:
    """Header lines (`Name: value`) as raw fields."""
    pairs = (line.partition(": ") for line in lines)
    return [(name.encode(), value.encode("latin-1")) for name, _, value in pairs]


def listed(*, credentials: bool = False) -> Cors:
    return Cors((APP, OTHER), credentials)


def everybody(*, credentials: bool = False) -> Cors:
    return Cors(("*",), credentials)


PREFLIGHT = fields(
    f"Origin: {APP}",
    "Access-Control-Request-Method: POST",
    "Access-Control-Request-Headers: authorization,last-event-id",
)
NOT_ALLOWED = [
    "null",
    "https://evil.example",
    "https://app.example.com.evil.example",
    "https://app.example.com:8443",
    "http://app.example.com",
    "https://app.example.com, https://evil.example",
    " https://app.example.com",
    "",
    "*",
    "https://app.example.comé",
]

# Which requests are preflights.


def test_a_preflight_is_an_options_with_an_origin_that_asks_for_a_method() -> None:
    assert preflight_method("OPTIONS", PREFLIGHT) == b"POST"
    assert preflight_method("OPTIONS", [(name.upper(), value) for name, value in PREFLIGHT]) == b"POST"


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "options"])
def test_no_other_method_is_one(method: str) -> None:
    assert preflight_method(method, PREFLIGHT) is None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        fields("Origin: https://a.example"),
        fields("Access-Control-Request-Method: GET"),
        fields("Origin: https://a.example", "Access-Control-Request-Method: "),
        fields("Origin: https://a.example", "Access-Control-Request-Method: GET, POST"),
        fields("Origin: https://a.example", "Access-Control-Request-Method: é"),
        fields(
            "Origin: https://a.example",
            "Access-Control-Request-Method: GET",
            "Access-Control-Request-Method: POST",
        ),
        fields(
            "Origin: https://a.example", "Origin: https://b.example", "Access-Control-Request-Method: GET"
        ),
    ],
)
def test_an_options_without_one_origin_and_one_method_asked_for_is_upstreams(headers: list[Header]) -> None:
    assert preflight_method("OPTIONS", headers) is None


# What a preflight is answered.


def test_a_page_of_an_allowed_origin_may_do_what_it_asks_for() -> None:
    assert listed().preflight(PREFLIGHT) == fields(
        f"Access-Control-Allow-Origin: {APP}",
        "Access-Control-Allow-Methods: POST",
        "Access-Control-Allow-Headers: authorization,last-event-id",
        "Access-Control-Max-Age: 600",
        "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    )


def test_a_preflight_says_that_cookies_may_come_where_they_may() -> None:
    assert (b"Access-Control-Allow-Credentials", b"true") in listed(credentials=True).preflight(PREFLIGHT)


def test_where_every_page_may_the_answer_does_not_vary_by_origin_and_cookies_stay_out() -> None:
    for cors in (everybody(), everybody(credentials=True), Cors((APP, "*"), True)):
        assert cors.preflight(PREFLIGHT) == fields(
            "Access-Control-Allow-Origin: *",
            "Access-Control-Allow-Methods: POST",
            "Access-Control-Allow-Headers: authorization,last-event-id",
            "Access-Control-Max-Age: 600",
            "Vary: Access-Control-Request-Method, Access-Control-Request-Headers",
        )


@pytest.mark.parametrize("origin", NOT_ALLOWED)
def test_an_origin_that_is_not_allowed_learns_nothing_from_a_preflight(origin: str) -> None:
    headers = fields(f"Origin: {origin}", *["Access-Control-Request-Method: GET"])
    assert listed(credentials=True).preflight(headers) == fields(
        "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    )


@pytest.mark.parametrize("names", [None, "", "a b", "é", "x,,y", ",x", "x\x7f"])
def test_headers_that_were_not_asked_for_or_are_none_are_not_allowed(names: str | None) -> None:
    asked = [] if names is None else fields(f"Access-Control-Request-Headers: {names}")
    answer = dict(listed().preflight([*PREFLIGHT[:2], *asked]))
    assert b"Access-Control-Allow-Headers" not in answer
    assert answer[b"Access-Control-Allow-Methods"] == b"POST"


def test_headers_asked_for_in_several_fields_are_all_allowed() -> None:
    asked = fields("Access-Control-Request-Headers: a , b", "access-control-request-headers: c")
    assert dict(listed().preflight([*PREFLIGHT[:2], *asked]))[b"Access-Control-Allow-Headers"] == b"a , b, c"


def test_what_is_no_preflight_is_allowed_nothing() -> None:
    assert [name for name, _ in listed().preflight(fields(f"Origin: {APP}"))] == [b"Vary"]


# The answers themselves.

UPSTREAM = fields(
    "Content-Type: text/event-stream",
    "access-control-allow-origin: *",
    "Access-Control-Allow-Origin: https://evil.example",
    "ACCESS-CONTROL-ALLOW-CREDENTIALS: true",
    "Access-Control-Allow-Methods: GET",
    "Access-Control-Allow-Headers: x",
    "Access-Control-Max-Age: 86400",
    "Access-Control-Expose-Headers: X-Request-Id",
    "X-Request-Id: 7",
)
OF_THE_APPLICATION = fields(
    "Content-Type: text/event-stream", "Access-Control-Expose-Headers: X-Request-Id", "X-Request-Id: 7"
)


def test_an_allowed_page_gets_exactly_one_allowance_whatever_upstream_says() -> None:
    for origin in (APP, OTHER):
        for said in (UPSTREAM, OF_THE_APPLICATION):
            assert listed().own(fields(f"Origin: {origin}"), said) == [
                *OF_THE_APPLICATION,
                *fields("Vary: Origin", f"Access-Control-Allow-Origin: {origin}"),
            ]


def test_with_credentials_scripts_may_read_what_came_back_for_cookies() -> None:
    assert listed(credentials=True).own(fields(f"Origin: {APP}"), UPSTREAM) == [
        *OF_THE_APPLICATION,
        *fields(
            "Vary: Origin", f"Access-Control-Allow-Origin: {APP}", "Access-Control-Allow-Credentials: true"
        ),
    ]


@pytest.mark.parametrize("headers", [[], fields(f"Origin: {APP}"), fields("Origin: null")])
def test_if_all_origins_are_allowed_the_answer_is_the_same_for_each(headers: list[Header]) -> None:
    for cors in (everybody(), everybody(credentials=True)):
        assert cors.own(headers, [*UPSTREAM, *fields("Vary: Accept")]) == [
            *OF_THE_APPLICATION,
            *fields("Vary: Accept", "Access-Control-Allow-Origin: *"),
        ]


def test_a_request_without_an_origin_gets_no_allowance_but_a_cache_hears_that_others_do() -> None:
    assert listed().own([], UPSTREAM) == [*OF_THE_APPLICATION, *fields("Vary: Origin")]


@pytest.mark.parametrize("origin", NOT_ALLOWED)
def test_an_origin_that_is_not_allowed_gets_no_allowance_not_even_upstreams(origin: str) -> None:
    given_origin = fields(f"Origin: {origin}")
    expected = [*OF_THE_APPLICATION, *fields("Vary: Origin")]
    assert listed(credentials=True).own(given_origin, UPSTREAM) == expected


def test_two_origins_are_none() -> None:
    assert listed().own(fields(f"Origin: {APP}", f"Origin: {APP}"), []) == fields("Vary: Origin")


@pytest.mark.parametrize("origin", ["HTTPS://APP.EXAMPLE.COM", "https://App.example.com"])
def test_case_does_not_matter_and_is_not_sent_back(origin: str) -> None:
    for cors in (listed(), Cors((origin,), False)):
        answer = cors.own(fields(f"oRIGIN: {origin}"), [])
        assert answer == fields("Vary: Origin", f"Access-Control-Allow-Origin: {APP}")


@pytest.mark.parametrize(
    ("upstreams", "merged"),
    [
        (["Accept-Encoding"], "Accept-Encoding, Origin"),
        (["Accept-Encoding", "accept-language ,Cookie"], "Accept-Encoding, accept-language, Cookie, Origin"),
        (["origin"], "origin"),
        (["Accept, ORIGIN"], "Accept, ORIGIN"),
        (["*"], "*"),
        (["Accept", "*"], "Accept, *"),
        (["", " , "], "Origin"),
        (["Accept", "Accept"], "Accept, Origin"),
        (["X-Origin"], "X-Origin, Origin"),
    ],
)
def test_what_upstream_varies_by_is_kept_and_origin_named_once(upstreams: list[str], merged: str) -> None:
    said = fields("A: 1", *(f"vary: {value}" for value in upstreams), "B: 2")
    assert listed().own([], said) == fields("A: 1", "B: 2", f"Vary: {merged}")


def test_what_was_given_is_left_as_it_was() -> None:
    given_fields = tuple(UPSTREAM)
    listed().own(PREFLIGHT, given_fields)
    assert given_fields == tuple(UPSTREAM)


@settings(deadline=None)
@given(st.binary(max_size=40), st.booleans())
def test_nothing_that_a_page_sends_comes_back_as_its_origin(origin: bytes, credentials: bool) -> None:
    headers = [(b"Origin", origin), *PREFLIGHT[1:]]
    for answer in (
        listed(credentials=credentials).own(headers, UPSTREAM),
        listed(credentials=credentials).preflight(headers),
    ):
        allowed = [value for name, value in answer if name.lower() == b"access-control-allow-origin"]
        assert allowed in ([], [APP.encode()], [OTHER.encode()])
        assert not allowed or origin.lower() == allowed[0]
