"""Messages of NATS and events of upstream, read by JMESPath: the forms that exist, and any others."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import jmespath.functions
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.errors import InvalidMessage
from sse_keepalive_proxy.stream.bridge_mapping import (
    FUNCTIONS,
    Mapping,
    evaluated,
    functions_of,
    identifier,
    problem_of,
)
from sse_keepalive_proxy.stream.bridging import Message
from sse_keepalive_proxy.stream.policy import BridgeFrame, BridgeSubject
from sse_keepalive_proxy.wire.framing import Framer

CHAT = BridgeSubject(
    "chat",
    "to",
    when="text",
    keys=("id", "[room, text]"),
    upstream_keys=("message.id", "[room, text]"),
    frames=(BridgeFrame("", "{text: text}"), BridgeFrame("Named", "{at: iso8601(at), id: integer(id)}")),
)
MESSAGE = {"id": "7", "room": 2, "text": "hi\n\u2028", "to": [3, "4"], "at": 1750852000}


def read(value: Any, subject: BridgeSubject = CHAT) -> Message | None:
    return Mapping([subject]).read(0, json.dumps(value).encode())


def test_a_message_has_recipients_keys_and_frames() -> None:
    found = read(MESSAGE)
    assert found is not None
    assert found.recipients == {"3", "4"}
    assert found.keys == ((0, 0, "7"), (0, 1, '[2,"hi\\n\\u2028"]'))
    assert found.frames == (
        b'data: {"text":"hi\\n\\u2028"}\n\nevent: Named\ndata: {"at":"2025-06-25T11:46:40Z","id":7}\n\n'
    )
    assert found.events == 2


def test_a_message_that_does_not_count_is_ignored() -> None:
    assert read({**MESSAGE, "text": None}) is None
    assert read({**MESSAGE, "to": None}) is None


def test_one_recipient_needs_no_list() -> None:
    found = read({**MESSAGE, "to": 3})
    assert found is not None
    assert found.recipients == {"3"}


def test_a_message_that_says_only_its_chat_is_for_those_who_got_the_chats_last_message() -> None:
    read = BridgeSubject("read", "[by, members(room)][]", frames=(BridgeFrame("", "by"),))
    typing = BridgeSubject("typing", "members(room, by, `9`, null)")
    presence = BridgeSubject("presence", "peers(who)")
    learning = BridgeSubject("chat", "to", learn="room")
    mapping = Mapping([learning, read, typing, presence])

    def recipients(place: int, **value: object) -> frozenset[str]:
        found = mapping.read(place, json.dumps(value).encode())
        assert found is not None
        return found.recipients

    assert recipients(1, room=2, by=3) == {"3"}
    assert recipients(0, room=2, to=[3, "4", 5]) == {"3", "4", "5"}
    assert recipients(1, room="2", by=3) == {"3", "4", "5"}
    assert recipients(2, room=2, by=3) == {"4", "5"}
    assert recipients(2, room=7, by=3) == set()
    assert recipients(3, who=4) == {"3", "5"}
    assert recipients(0, room=2, to=[3]) == {"3"}
    assert recipients(2, room=2, by=4) == {"3"}
    assert recipients(3, who=4) == set()
    assert recipients(3) == set()


def test_an_event_of_upstream_has_keys_at_the_same_places() -> None:
    mapping = Mapping([CHAT])
    assert mapping.upstream_keys(b'event: x\ndata: {"message":\ndata: {"id": 7}}\n\n') == ((0, 0, "7"),)
    assert mapping.upstream_keys(b'data: {"room": 2, "text": "a"}\n\n') == ((0, 1, '[2,"a"]'),)


@pytest.mark.parametrize(
    "block", [b": ping\n\n", b"data: hi\n\n", b"data: {\n\n", b'data: {"a": 1}\n\n', b"id: 1\n\n"]
)
def test_what_has_no_key_matches_nothing(block: bytes) -> None:
    assert Mapping([CHAT]).upstream_keys(block) == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (7, "7"),
        ("7", "7"),
        (None, None),
        ([1, None], None),
        ([1, "a"], '[1,"a"]'),
        (True, "true"),
    ],
)
def test_values_are_compared_as_text(value: object, text: str | None) -> None:
    assert identifier(value) == text


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"NaN", b"[" * 100_000, b'{"to": 1e999}'])
def test_what_is_no_json_is_invalid(payload: bytes) -> None:
    subject = BridgeSubject("chat", "to", frames=(BridgeFrame("", "to"),))
    with pytest.raises(InvalidMessage):
        Mapping([subject]).read(0, payload)


@pytest.mark.parametrize(
    "expression", ["length(a)", "[a][::0]", "no_function(a)", "integer()", "ceil(to_number('inf'))", "&a"]
)
def test_an_expression_that_cannot_be_evaluated_is_invalid(expression: str) -> None:
    with pytest.raises(InvalidMessage):
        read({"a": 1}, BridgeSubject("chat", "`1`", frames=(BridgeFrame("", expression),)))


@pytest.mark.parametrize("expression", ["a.", "[", "a b", "(", "[" * 100_000, f"[{'9' * 5000}]"])
def test_a_broken_expression_has_a_problem(expression: str) -> None:
    assert problem_of(expression)


@pytest.mark.parametrize("value", [None, 1e300, -1e300, "x", 10**400])
def test_the_functions_return_null_for_what_they_cannot_convert(value: object) -> None:
    frames = (BridgeFrame("", "[integer(text), iso8601(at)]"),)
    at = None if isinstance(value, str) else value
    text = None if value == 1e300 or value == -1e300 else value
    found = read({"text": text, "at": at}, BridgeSubject("chat", "`1`", frames=frames))
    assert found is not None


def test_a_text_that_looks_like_a_call_is_none() -> None:
    assert functions_of("""[length("a\\"no("), 'it\\'s no(', `"no("`, Upper (b)][0:1]""") == [
        "Upper",
        "length",
    ]


# Any expressions, for any messages.

NAMES = ["id", "to", "text", "room", "at", "message", "x"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=5)
    ),
    max_leaves=12,
)
ARGUMENTS = {
    **{name: len(each["signature"]) for name, each in jmespath.functions.Functions.FUNCTION_TABLE.items()},
    "iso8601": 1,
    "integer": 1,
    "members": 2,
    "peers": 1,
}
NUMBERS = st.just("") | st.integers(-9, 9).map(str)


def calls(argument: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Calls of every function, half of them with one argument too many."""
    argument |= argument.map("&{}".format)
    return st.sampled_from(sorted(ARGUMENTS)).flatmap(
        lambda name: st.lists(argument, min_size=ARGUMENTS[name], max_size=ARGUMENTS[name] + 1).map(
            lambda given: f"{name}({', '.join(given)})"
        )
    )


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Expressions that contain others (https://jmespath.org/specification.html#grammar)."""
    operators = st.sampled_from(["||", "&&", "|", "==", "!=", "<", "<=", ">", ">="])
    return (
        calls(inner)
        | st.builds("({}) {} ({})".format, inner, operators, inner)
        | st.builds("({})[?({}) {} ({})]".format, inner, inner, operators, inner)
        | st.builds("({})[{}:{}:{}]".format, inner, NUMBERS, NUMBERS, NUMBERS)
        | st.builds("({})[{}]".format, inner, st.integers(-9, 9))
        | st.builds("({}){}".format, inner, st.sampled_from(["", "[]", "[*]", ".*", ".id", ".[id, to]"]))
        | st.builds("[{}, {}]".format, inner, inner)
        | st.builds("{{id: {}, text: {}}}".format, inner, inner)
        | inner.map("!{}".format)
    )


EXPRESSIONS = st.recursive(
    st.sampled_from([*NAMES, "@", "*", "[]", "'hi'", "'1e999'", "'nan'"])
    | JSON.map(lambda value: "`{}`".format(json.dumps(value).replace("`", "\\u0060")))
    | st.text(min_size=1).map(json.dumps),
    larger,
    max_leaves=8,
)
ANYTHING = st.text("`'\"\\@&|!<>=?*.,:()[]{} \naz_09-\u0663\ud800", max_size=20) | st.text(max_size=10)


def test_the_functions_that_are_tried_are_all_there_are() -> None:
    assert set(ARGUMENTS) == FUNCTIONS


def outcome(mapping: Mapping, place: int, payload: bytes) -> None:
    """The payload is a message, as a message must be, or ignored, or invalid. Nothing else is raised."""
    try:
        found = mapping.read(place, payload)
    except InvalidMessage:
        return
    if found is not None:
        assert all(isinstance(each, str) for each in found.recipients)
        assert all(isinstance(text, str) for _, _, text in found.keys)
        framer = Framer(1 << 20)
        assert framer.feed(found.frames) == found.frames  # whole blocks
        assert found.frames.count(b"\n\n") == found.events


@settings(deadline=None, max_examples=300)
@given(st.lists(JSON, min_size=1, max_size=3), st.lists(EXPRESSIONS, min_size=6, max_size=6))
def test_any_message_is_read_ignored_or_invalid_by_any_expressions(
    values: list[Any], expressions: list[str]
) -> None:
    assert [problem_of(each) for each in expressions] == [None] * 6
    assert {name for each in expressions for name in functions_of(each)} <= FUNCTIONS
    when, recipients, learned, key, upstream_key, data = expressions
    frames = (BridgeFrame("e", data), BridgeFrame("", recipients))
    subject = BridgeSubject("s", recipients, when, (key, data), (upstream_key, when), frames, learned)
    everyone = BridgeSubject("all", "[members(room, id), peers(id), to][][]", frames=(BridgeFrame("", data),))
    mapping = Mapping([subject, everyone])
    for value in values:  # one after the other: what a message teaches, the next ones are read by
        payload = json.dumps(value).encode()
        for keys in (mapping.upstream_keys(b"data: %b\n\n" % payload), mapping.upstream_keys(payload)):
            assert all(isinstance(text, str) for _, _, text in keys)
        outcome(mapping, 0, payload)
        outcome(mapping, 1, payload)


@settings(deadline=None)
@given(EXPRESSIONS | ANYTHING, JSON)
def test_any_text_is_an_expression_or_has_a_problem(text: str, value: Any) -> None:
    problem = problem_of(text)
    if problem is not None:
        assert "\n" not in problem
        return
    with suppress(InvalidMessage):
        evaluated(text, value)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """JSON with some bytes in the place of others."""
    whole = json.dumps(draw(JSON), ensure_ascii=False).encode("utf-8", "surrogatepass")
    at = draw(st.integers(0, len(whole)))
    return whole[:at] + draw(st.binary(max_size=4)) + whole[at + draw(st.integers(0, 4)) :]


@settings(deadline=None)
@given(st.binary(max_size=60) | damaged(), EXPRESSIONS)
def test_any_bytes_are_read_ignored_or_invalid(payload: bytes, expression: str) -> None:
    mapping = Mapping([CHAT, BridgeSubject("s", expression, frames=(BridgeFrame("", expression),))])
    outcome(mapping, 0, payload)
    outcome(mapping, 1, payload)
    mapping.upstream_keys(payload)
    mapping.upstream_keys(b"data: %b\n\n" % payload)
