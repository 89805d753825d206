"""Claims in the events we write: the right JSON, whatever a token says."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.stream.claims import claim, fill, missing, names
from sse_keepalive_proxy.wire.encode import event, json_line
from tests.support.sse_reference import Event, parse

NOW = "2025-06-27T02:45:46.782Z"
VALUES = {"stream_id": "00c0ffee00c0ffee", "now": NOW}
CLAIMS = {
    "sub": "2",
    "exp": 1750992346,
    "admin": False,
    "ratio": 0.5,
    "gone": None,
    "user": {"id": 2, "fullname": 'Zoë "Z"\n', "roles": ["a", {"b": 1}]},
}


def filled(data: Any, claims: Any = CLAIMS) -> Any:
    return json.loads(fill(json_line(data), VALUES, claims))


# Finding one.


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sub", "2"),
        ("exp", 1750992346),
        ("admin", False),
        ("gone", None),
        ("user", CLAIMS["user"]),
        ("user.id", 2),
        ("user.roles", ["a", {"b": 1}]),
        ("user.roles.0", None),
        ("user.id.x", None),
        ("sub.x", None),
        ("gone.x", None),
        ("missing", None),
        ("user.missing", None),
        ("missing.id", None),
        ("", None),
    ],
)
def test_a_claim_is_found_by_the_names_on_the_way_to_it(path: str, value: Any) -> None:
    assert claim(CLAIMS, path) == value


# Knowing whether there is one.


@pytest.mark.parametrize(
    "data",
    [
        {"user": "{claim.sub}"},
        {"user": "<{claim.user.id}>"},
        {"a": [1, {"b": ["{now}", "{claim.sub}"]}]},
        {"{claim.sub}": 1},
        "{claim.sub}",
        {"a": 'x"{claim.user-id.my_id}"'},
        {"a": "{{claim.sub}}"},
    ],
)
def test_data_with_a_claim_anywhere_is_known(data: Any) -> None:
    assert names(data)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"type": "ping", "timestamp": "{now}", "id": "{stream_id}", "route": "{route}"},
        {"claim": {"sub": 1}},
        {"a": "claim.sub"},
        {"a": "{claim}"},
        {"a": "{claim.}"},
        {"a": "{claim..sub}"},
        {"a": "{claim.sub"},
        {"a": "{ claim.sub }"},
        {"a": "{CLAIM.sub}"},
        {"a": ["{claim", ".sub}"]},
        {"a": "{claim.a b}"},
    ],
)
def test_data_without_one_is_known_too_and_left_as_it_is(data: Any) -> None:
    assert not names(data)
    expected = json_line(data).replace("{now}", NOW).replace("{stream_id}", VALUES["stream_id"])
    assert fill(json_line(data), VALUES, CLAIMS) == expected


# Filling one in.


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sub", "2"),
        ("user.id", 2),
        ("admin", False),
        ("ratio", 0.5),
        ("gone", None),
        ("missing", None),
        ("user.fullname", 'Zoë "Z"\n'),
        ("user", CLAIMS["user"]),
        ("user.roles", ["a", {"b": 1}]),
    ],
)
def test_a_string_that_is_nothing_else_becomes_the_claim_and_keeps_its_type(path: str, value: Any) -> None:
    text = f"{{claim.{path}}}"
    assert filled({"a": text}) == {"a": value}
    assert filled([text, text]) == [value, value]
    assert filled({"a": [text], "b": {"c": text}, "d": 1}) == {"a": [value], "b": {"c": value}, "d": 1}
    assert filled(text) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user {claim.user.id}", "user 2"),
        ("{claim.user.id} ", "2 "),
        (" {claim.user.id}", " 2"),
        ("{claim.sub}{claim.user.id}", "22"),
        ("{claim.sub}{now}", f"2{NOW}"),
        ("{stream_id}/{claim.user.fullname}", f'{VALUES["stream_id"]}/Zoë "Z"\n'),
        ("<{claim.admin}>", "<false>"),
        ("<{claim.ratio}>", "<0.5>"),
        ("<{claim.gone}>", "<>"),
        ("<{claim.missing.x}>", "<>"),
        ("<{claim.user.roles}>", '<["a",{"b":1}]>'),
        ('"{claim.user.id}"', '"2"'),
        ('a,"{claim.user.id}"', 'a,"2"'),
        ('[:,"{claim.user.id}', '[:,"2'),
        ('\\"{claim.user.id}"', '\\"2"'),
        ("\\{claim.user.id}\\", "\\2\\"),
        ("{{claim.user.id}}", "{2}"),
        ("{other} {claim.user.id} {}", "{other} 2 {}"),
    ],
)
def test_in_a_longer_string_the_claims_text_is_put_in(text: str, expected: str) -> None:
    assert filled({"a": text}) == {"a": expected}
    assert filled([text]) == [expected]


def test_a_key_stays_text() -> None:
    assert filled({"{claim.user.id}": "{claim.user.id}", "b": {"{claim.sub}{now}": 1}}) == {
        "2": 2,
        "b": {f"2{NOW}": 1},
    }


@pytest.mark.parametrize(
    "text", ["{now}", "{claim.b}", '"{claim.b}"', '","x":"{now}', "\\", '\\"', "{stream_id"]
)
def test_what_a_claim_contains_is_never_expanded(text: str) -> None:
    claims = {"a": text, "b": "secret", "deep": [text, {text: text}]}
    assert filled({"a": "{claim.a}", "b": "<{claim.a}>"}, claims) == {"a": text, "b": f"<{text}>"}
    assert filled(["{claim.deep}"], claims) == [[text, {text: text}]]
    assert filled("{claim.a}_id}", claims) == f"{text}_id}}"


def test_a_value_of_ours_is_escaped_as_well_and_not_expanded() -> None:
    assert json.loads(fill('"{now}"', {"now": '"{claim.sub}\n'}, CLAIMS)) == '"{claim.sub}\n'


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, [math.inf], {"a": math.nan}])
def test_what_json_cannot_write_counts_as_no_claim(value: Any) -> None:
    assert filled({"a": "{claim.x}", "b": "<{claim.x}>"}, {"x": value}) == {"a": None, "b": "<>"}


def test_what_is_nested_without_end_counts_as_no_claim() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert filled({"a": "{claim.x}", "b": "<{claim.x}>"}, {"x": deep}) == {"a": None, "b": "<>"}
    while deep:  # else its own end would be as deep
        deep = deep.pop()


# Whatever data and claims hold.

words = st.sampled_from(
    [
        "{claim.a}",
        "{claim.a.b}",
        "{claim.c}",
        "{now}",
        "{stream_id}",
        "{route}",
        "{",
        "}",
        '"',
        "\\",
        ",",
        ":",
    ]
)
texts = st.text(max_size=5) | st.lists(words, max_size=4).map("".join)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=6,
    )


finite = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
templates = trees(finite | words)
claims_of_a_token = st.dictionaries(st.sampled_from(["a", "b", "c"]), trees(scalars), max_size=3)
PLACE = re.compile(r"\{(stream_id|now|claim(?:\.[a-z]+)+)\}")


def writable(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return None
    return value


def meant(data: Any, claims: Any) -> Any:
    """JSON data with its placeholders replaced, the long way round."""

    def value(word: str) -> Any:
        return writable(claim(claims, word[6:])) if word.startswith("claim.") else VALUES[word]

    def text(found: re.Match[str]) -> str:
        given = value(found[1])
        if given is None:
            return ""
        return given if isinstance(given, str) else json.dumps(given, separators=(",", ":"))

    match data:
        case dict():
            return {PLACE.sub(text, key): meant(inner, claims) for key, inner in data.items()}
        case list():
            return [meant(inner, claims) for inner in data]
        case str() if whole := PLACE.fullmatch(data):
            return value(whole[1])
        case str():
            return PLACE.sub(text, data)
    return data


@settings(deadline=None)
@given(templates, claims_of_a_token)
@example({'a"{claim.a}': "{claim.a}"}, {"a": '"'})
@example([',"{claim.a}"', ["{claim.a}"]], {"a": [',"{claim.a}"']})
@example(["{claim.a}{now}"], {"a": "{claim.c}", "c": "{now}"})
@example(["\ud800{claim.a}"], {"a": "\udc00\u2028\x00\r\n"})
def test_the_result_is_what_was_meant_whatever_the_claims_contain(data: Any, claims: Any) -> None:
    # Put together in UTF-16, two halves of a pair become one character: the text says the same.
    assert json_line(filled(data, claims)) == json_line(json.loads(json_line(meant(data, claims))))


@settings(deadline=None)
@given(templates, claims_of_a_token)
def test_the_result_never_breaks_a_frame(data: Any, claims: Any) -> None:
    text = fill(json_line(data), VALUES, claims)
    assert text.isascii()
    assert text.isprintable()
    assert parse(event("confirmed", text)).items == [Event("confirmed", text, "")]


@settings(deadline=None)
@given(templates)
def test_without_a_claim_in_the_data_the_claims_do_not_matter(data: Any) -> None:
    template = json_line(data)
    same = fill(template, VALUES, {"a": {"b": 1}, "c": "x"}) == fill(template, VALUES, {})
    assert same or names(data)


# Claims that are not there.


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"a": "{claim.user.id}", "b": "of {claim.sub} at {now}"}, False),
        ({"a": "{claim.admin}"}, False),  # false is a value
        ({"a": "{claim.user.id}", "b": ["x {claim.user.nobody}"]}, True),
        ({"{claim.gone}": 1}, True),
        ({"a": "nothing", "b": "{stream_id}"}, False),
    ],
)
def test_a_claim_that_is_null_or_not_there_is_missing(data: Any, expected: bool) -> None:
    assert missing(data, CLAIMS) is expected
