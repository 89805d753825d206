"""Where a query carries event ids, and how they are renewed."""

from __future__ import annotations

import pytest

from sse_keepalive_proxy.http.cursors import find_cursors, take_cursors

NAMES = frozenset({b"lastEventId", b"since[x]"})
REST = b" HTTP/1.1\r\nHost: a\r\nReferer: /?lastEventId=1\r\n"


def renewed(target: bytes) -> bytes | None:
    """The target with the id 7 in the place of each cursor, or None if it has none that can be renewed."""
    cursors = find_cursors(b"GET " + target + REST, NAMES)
    if cursors is None or not cursors.renewable:
        return None
    head = cursors.renewed(b"7")
    assert head.startswith(b"GET ")
    assert head.endswith(REST)
    return head[4 : -len(REST)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"/?lastEventId=5", b"/?lastEventId=7"),
        (b"/?a&lastEventId=5=6&b=%20", b"/?a&lastEventId=7&b=%20"),
        (b"/?lastEventId=5&lastEventId=&lastEventId", b"/?lastEventId=7&lastEventId=7&lastEventId=7"),
        (b"/?lastEvent%49d=5&since%5bx%5D=6", b"/?lastEvent%49d=7&since%5bx%5D=7"),
        (b"/?lastEventId=5?lastEventId=5", b"/?lastEventId=7"),
    ],
)
def test_every_cursor_gets_the_id_and_all_else_stays(before: bytes, after: bytes) -> None:
    assert renewed(before) == after


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (b"/?lastEventId=o5", b"/", b"o5"),
        (b"/?a&lastEventId=o5&b=%20", b"/?a&b=%20", b"o5"),
        (b"/?lastEvent%49d=%6F5&since%5bx%5D=6&since[x]=o7", b"/?since%5bx%5D=6", b"o7"),
        (b"/?lastEventId=5&a=o5", b"/?lastEventId=5&a=o5", b""),
        (b"/?" + b"a&" * 100 + b"lastEventId=o5", b"/?" + b"a&" * 100 + b"lastEventId=o5", b""),
        (b"/", b"/", b""),
    ],
)
def test_a_cursor_with_a_known_value_is_taken_out_and_all_else_stays(
    before: bytes, after: bytes, found: bytes
) -> None:
    assert take_cursors(before, NAMES, lambda value: value.startswith(b"o")) == (after, found)


@pytest.mark.parametrize(
    "target", [b"/", b"/?", b"/lastEventId=5", b"/?lasteventid=5&mylastEventId=5&x=lastEventId", b"*"]
)
def test_other_parameters_are_no_cursors(target: bytes) -> None:
    assert find_cursors(b"GET " + target + REST, NAMES) is None


@pytest.mark.parametrize("target", [b"/?cursor=5", b"/?lastEventId=5&cursor", b"/?c%75rsor=5&lastEventId=5"])
def test_a_parameter_called_cursor_cannot_be_renewed_unless_it_is_named(target: bytes) -> None:
    cursors = find_cursors(b"GET " + target + REST, NAMES)
    assert cursors is not None
    assert not cursors.renewable
    named = find_cursors(b"GET " + target + REST, NAMES | {b"cursor"})
    assert named is not None
    assert named.renewable


def test_an_id_is_percent_encoded() -> None:
    cursors = find_cursors(b"GET /?lastEventId=5" + REST, NAMES)
    assert cursors is not None
    assert cursors.renewed("é &=+#/%".encode()) == b"GET /?lastEventId=%C3%A9%20%26%3D%2B%23%2F%25" + REST


@pytest.mark.parametrize("part", [b"", b"a=1", b"lastEventId", b"%6c"])
def test_a_query_with_very_many_parameters_is_not_read_and_cannot_be_renewed(part: bytes) -> None:
    at_most = find_cursors(b"GET /?" + b"&".join([b"a"] * 99 + [b"lastEventId"]) + REST, NAMES)
    assert at_most is not None
    assert at_most.renewable
    head = b"GET /?" + b"&".join([part] * 101) + REST
    cursors = find_cursors(head, NAMES)
    assert cursors is not None
    assert not cursors.renewable
    assert cursors.renewed(b"7") == head


def test_an_id_takes_the_place_of_at_most_four_cursors() -> None:
    assert renewed(b"/?" + b"&".join([b"lastEventId"] * 4)) == b"/?" + b"&".join([b"lastEventId=7"] * 4)
    cursors = find_cursors(b"GET /?" + b"&".join([b"lastEventId"] * 5) + REST, NAMES)
    assert cursors is not None
    assert not cursors.renewable
