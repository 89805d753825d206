"""What we write, as clients read it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.errors import EncodingError
from sse_keepalive_proxy.wire.encode import comment, event, json_line
from tests.support.sse_reference import Comment, Event, parse

lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(lines)
def test_a_comment_arrives_as_it_was_written(text: str) -> None:
    assert parse(comment(text)).items == [Comment(text)]
    assert comment(text) == f":{text}\n\n".encode()
    assert comment(text, blank=False) == f":{text}\n".encode()


@given(lines.filter(bool), lines)
def test_an_event_arrives_as_it_was_written(name: str, data: str) -> None:
    parsed = parse(event(name, data))
    assert parsed.items == [Event(name, data, "")]
    assert parsed.reconnection_time is None


def test_an_event_without_a_name_is_a_message() -> None:
    assert event("", "1") == b"data: 1\n\n"
    assert parse(event("", "1")).items == [Event("message", "1", "")]


def test_retry_stands_in_the_event_that_it_comes_with() -> None:
    assert event("bye", "1", retry=0) == b"event: bye\nretry: 0\ndata: 1\n\n"
    assert parse(event("bye", "1", retry=2500)).reconnection_time == 2500


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "\r\n", "a\0", "half \ud83d"])
def test_what_would_break_a_frame_is_refused(text: str) -> None:
    with pytest.raises(EncodingError, match="a comment cannot hold"):
        comment(text)
    with pytest.raises(EncodingError, match="an event name cannot hold"):
        event(text, "1")
    with pytest.raises(EncodingError, match="event data cannot hold"):
        event("name", text)


def test_line_separators_of_unicode_are_no_line_ends() -> None:
    assert parse(comment("a\u2028b\x85c")).items == [Comment("a\u2028b\x85c")]


@given(json_values)
def test_json_stands_on_one_line_whatever_is_in_it(value: object) -> None:
    line = json_line(value)
    assert line.isascii()
    assert json.loads(parse(event("", line)).events[0].data) == value


def test_json_is_compact_and_keeps_its_order() -> None:
    assert json_line({"type": "ping", "a": [1, None]}) == '{"type":"ping","a":[1,null]}'


def test_a_number_that_json_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        json_line(float("nan"))
