"""The request head that upstream gets, and how another id comes into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.config.types.address import parse_upstream
from sse_keepalive_proxy.gateway.forwarded import Trust
from sse_keepalive_proxy.gateway.upstream_request import own_id, request_head, without_id
from sse_keepalive_proxy.http.headers import Header
from sse_keepalive_proxy.http.request import ClientRequest
from tests.http import asking

TRUST = Trust((), "X-Forwarded-For")
ADDRESS = parse_upstream("http://notify:6687")


def incoming(*headers: Header, target: str = "/events") -> ClientRequest:
    return asking.incoming(target, headers)


def lines(head: bytes) -> list[bytes]:
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def asked(request: ClientRequest, *, stream: bool = True) -> bytes:
    return request_head(request, ADDRESS, TRUST, stream=stream)


def test_a_stream_is_asked_for_unencoded_whatever_the_client_accepts() -> None:
    request = incoming((b"Accept-Encoding", b"gzip, br"), (b"Accept", b"text/event-stream"))
    head = lines(asked(request))
    assert head[:2] == [b"GET /events HTTP/1.1", b"Host: example.com"]
    assert [line for line in head if line.lower().startswith(b"accept-encoding")] == [
        b"Accept-Encoding: identity"
    ]
    assert b"Accept-Encoding: gzip, br" in lines(asked(request, stream=False))


@pytest.mark.parametrize("stream", [True, False])
def test_upstream_is_not_asked_to_close_because_some_servers_frame_their_body_by_it(stream: bool) -> None:
    head = asked(incoming((b"Connection", b"close")), stream=stream)
    assert not [line for line in lines(head) if line.lower().startswith(b"connection")]


@pytest.mark.parametrize(
    ("url", "target", "line"),
    [
        ("http://notify:6687", "/events?a=%41", b"GET /events?a=%41 HTTP/1.1"),
        ("http://notify:6687/base", "/events", b"GET /base/events HTTP/1.1"),
        ("http://notify:6687/base", "*", b"GET * HTTP/1.1"),
    ],
)
def test_a_path_of_the_upstream_stands_in_front(url: str, target: str, line: bytes) -> None:
    head = request_head(incoming(target=target), parse_upstream(url), TRUST, stream=True)
    assert lines(head)[0] == line


def test_without_a_host_upstreams_own_name_is_asked_for() -> None:
    assert b"Host: notify:6687" in lines(asked(replace(incoming(), host=b"")))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"has_body": True, "length": 7}, b"Content-Length: 7"),
        ({"has_body": True}, b"Transfer-Encoding: chunked"),
        ({"upgrade": True}, b"Upgrade: websocket"),
    ],
)
def test_a_body_or_an_upgrade_is_announced_by_new_fields(changed: dict[str, object], field: bytes) -> None:
    request = replace(incoming((b"Content-Length", b"99")), **changed)  # type: ignore[arg-type]
    head = lines(asked(request))
    assert field in head
    assert b"Content-Length: 99" not in head


# Another id.

ID_NAMES = st.sampled_from([b"Last-Event-ID", b"last-event-id", b"LAST-EVENT-ID"])
VALUES = st.binary(max_size=12).map(
    lambda value: bytes(byte for byte in value if byte not in b"\r\n\0").strip()
)
OTHERS = st.sampled_from([b"X-Last-Event-ID", b"Last-Event-ID-Too", b"Accept", b"Cookie"])
FIELDS = st.lists(st.tuples(ID_NAMES | OTHERS, VALUES), max_size=6)


@given(FIELDS)
def test_without_its_id_a_head_is_otherwise_as_it_was(fields: Sequence[Header]) -> None:
    kept = [field for field in fields if field[0].lower() != b"last-event-id"]
    bare = without_id(asked(incoming(*fields)))
    assert bare + b"\r\n" == asked(incoming(*kept))


def test_the_clients_own_id_is_its_first() -> None:
    assert own_id(incoming((b"Accept", b"a"), (b"lAst-event-id", b"7"), (b"Last-Event-ID", b"8"))) == b"7"
    assert own_id(incoming((b"X-Last-Event-ID", b"7"))) == b""
