"""What the body of a request says at its top level, however it is cut into pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.gateway.json_body import JsonBody

NAMES = ("stream", "id", "method")


def found(body: bytes, *sizes: int) -> dict[str, Any]:
    """What is found in `body`, fed in pieces of these sizes, the last one over and over."""
    looking, at, pieces = JsonBody(*NAMES), 0, list(sizes or (len(body) or 1,))
    while at < len(body):
        size = pieces.pop(0) if len(pieces) > 1 else pieces[0]
        looking.feed(body[at : at + size])
        at += size
    return looking.found


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
        (b'{"id":{"nested":1},"method":"m"}', {"method": "m"}),
        (b'{"id":"' + b"x" * 2000 + b'","method":"m"}', {"method": "m"}),
        (b'{"stream":true', {}),
        (b'{"stream":true}{"stream":false}', {"stream": True}),
        (b'[{"stream":true}]', {}),
        (b'"stream":true', {}),
        (b'x{"stream":true}', {}),
        (b'--boundary\r\n{"stream":true}', {}),
        (b"stream=true", {}),
        (b'{"stream":tru}', {}),
        (b'{stream:true,"stream":,"id":1}', {"id": 1}),
        (b"\x1f\x8b\x08\x00{", {}),
        (b"", {}),
        (b"   ", {}),
        (b"{}", {}),
        (b'{"id":"\xff","stream":true}', {"stream": True}),
    ],
)
def test_members_of_the_object_itself_are_found_and_no_others(body: bytes, expected: dict[str, Any]) -> None:
    assert found(body) == expected
    for size in (1, 2, 3, 7, 1000) if len(body) < 1000 else (1000, 999):
        assert found(body, size) == expected


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
    plain = {name: members[name] for name in NAMES if not isinstance(members.get(name, []), dict | list)}
    assert found(body, *sizes) == plain


@pytest.mark.parametrize("members", [b'"a":[],', b'"stream":1,', b"[]", b'"",'])
def test_the_work_for_a_body_without_end_is_bounded(members: bytes) -> None:
    looking = JsonBody("stream")
    looking.feed(b"{" + members * 3000)
    assert looking.over


def test_a_body_nested_beyond_all_reason_is_not_read_on() -> None:
    looking = JsonBody("stream")
    looking.feed(b'{"a":' + b"[" * 2000)
    assert looking.over


def test_it_stops_reading_where_the_object_has_ended() -> None:
    looking = JsonBody("stream")
    looking.feed(b'{"stream":true} ')
    assert looking.over
