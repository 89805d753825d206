"""What the body of a request says at its top level, however it is cut into pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.gateway.json_body import JsonBody

NAMES = ("stream", "id", "method")
CODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")


def read(body: bytes, *sizes: int) -> JsonBody:
    """What has read `body` in pieces of these sizes, the last one over and over."""
    looking, at, pieces = JsonBody(*NAMES), 0, list(sizes or (len(body) or 1,))
    while at < len(body):
        size = pieces.pop(0) if len(pieces) > 1 else pieces[0]
        looking.feed(body[at : at + size])
        at += size
    return looking


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"stream":true}', {"stream": True}),
        (b' \r\n\t{ "model" : "m" , "stream" : true }', {"stream": True}),
        (b'{"stream":false}', {"stream": False}),
        (b'{"stream":true,"stream":false}', {"stream": False}),
        (b'{"stream":"true"}', {"stream": "true"}),
        (b'{"messages":[{"stream":true,"content":"} \\"stream\\":true"}],"n":1}', {}),
        (b'{"tools":{"stream":[true,{}]},"stream":true}', {"stream": True}),
        (b'{"prompt":"\\"stream\\":true, {","temperature":0.5}', {}),
        (b'{"prompt":"\\\\","stream":true}', {"stream": True}),
        (b'{"prompt":"\\\\\\"","stream":true}', {"stream": True}),
        (b'{"prompt":"' + b"x" * 100_000 + b'","stream":true}', {"stream": True}),
        (b'{"x":' + b"[" * 900 + b"]" * 900 + b',"stream":true}', {"stream": True}),
        (
            b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"id":8}}',
            {"id": 7, "method": "tools/call"},
        ),
        (b'{"jsonrpc":"2.0","id":"a\\u00e9","method":"m"}', {"id": "a\u00e9", "method": "m"}),
        (b'{"id":{"nested":1},"method":"m"}', {"id": None, "method": "m"}),
        (b'{"id":7,"id":["]"],"method":"m"}', {"id": None, "method": "m"}),
        (b'{"id":"' + b"x" * 2000 + b'","method":"m"}', {"id": None, "method": "m"}),
        (b'{"stream":true,"stream":' + b" " * 2000 + b"false}", {"stream": None}),
        (b'{"a":1,' + b" " * 2000 + b'"stream":true}', {"stream": True}),
        (b'{"\\u0073tream":false,"x\\n":true}', {"stream": False}),
        (b'{"x\\"stream":true}', {}),
        (b'{"stream":true,}', {"stream": True}),
        (b'{"stream":true}{"stream":false}', {"stream": True}),
        (b'[{"stream":true}]', {}),
        (b'"stream":true', {}),
        (b'x{"stream":true}', {}),
        (b'--boundary\r\n{"stream":true}', {}),
        (b"stream=true", {}),
        (b"\x1f\x8b\x08\x00{", {}),
        (b"", {}),
        (b"   ", {}),
        (b"{}", {}),
        (b'{"x":"\xff","stream":true}', {"stream": True}),
    ],
)
def test_members_of_the_object_itself_are_found_and_no_others(body: bytes, expected: dict[str, Any]) -> None:
    for size in (len(body), 1, 2, 3, 7, 1000) if len(body) < 1000 else (len(body), 1000, 999):
        looking = read(body, size)
        assert (looking.found, looking.unread) == (expected, False)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"stream":true',
        b'{"stream":true,"a":[}',
        b'{"stream":true]}',
        b'{"stream":tru}',
        b'{"stream":true,stream:false}',
        b'{"stream":true,[1]}',
        b'{"stream":true,"stream"}',
        b'{"stream":true,"stream":}',
        b'{"stream":"\xff"}',
        b'{"\\ustream":true}',
        b'{"stream"' + b" " * 2000 + b":true}",
        b'{"' + b"x" * 2000 + b'":true}',
        *(b'{"stream":true}'.decode().encode(coding) for coding in CODINGS),
    ],
)
def test_an_object_that_is_not_read_to_a_valid_end_may_say_anything(body: bytes) -> None:
    for size in (len(body), 1, 2, 3, 7):
        assert read(body, size).unread


def test_a_long_conversation_is_understood() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a": [1, {}]}'}}
    message = {
        "role": "assistant",
        "content": [{"type": "text", "text": 'say "[" ' * 20}],
        "tool_calls": [call],
    }
    body = json.dumps({"messages": [message] * 2000, "stream": True}).encode()
    assert len(body) > 500_000
    for size in (len(body), 65_536, 1000):
        looking = read(body, size)
        assert (looking.found, looking.unread) == ({"stream": True}, False)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*NAMES, 'a"', "\\", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from([*NAMES, "a", 'b"\\']), values),
    st.booleans(),
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
)
def test_it_agrees_with_a_parser_of_whole_bodies_wherever_it_is_cut(
    members: dict[str, Any], ascii_only: bool, sizes: list[int]
) -> None:
    body = json.dumps(members, ensure_ascii=ascii_only, indent=1 if ascii_only else None).encode()
    plain = {name: members[name] for name in NAMES if name in members}
    plain = {name: None if isinstance(value, dict | list) else value for name, value in plain.items()}
    looking = read(body, *sizes)
    assert (looking.found, looking.unread) == (plain, False)


@pytest.mark.parametrize("members", [b'"a":[],', b'"stream":1,'])
def test_the_work_for_an_object_without_end_is_bounded(members: bytes) -> None:
    looking = read(b"{" + members * 3000)
    assert looking.over
    assert looking.unread


@pytest.mark.parametrize("size", [200_000, 1000])
@pytest.mark.parametrize("nested", [b"[]", b"[", b'{"a":1},'])
def test_the_work_for_nested_values_without_end_is_bounded(nested: bytes, size: int) -> None:
    looking = read(b'{"stream":true,"a":[' + nested * 50_000, size)
    assert looking.over
    assert looking.unread


def test_it_stops_reading_where_the_object_has_ended() -> None:
    looking = JsonBody("stream")
    looking.feed(b'{"stream":true} ')
    assert looking.over
