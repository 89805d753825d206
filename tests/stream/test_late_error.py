"""An answer that is not whole, in the words of each client family, byte by byte."""

from __future__ import annotations

import json

import pytest

from sse_keepalive_proxy.stream.families import LateError
from sse_keepalive_proxy.stream.late_error import LateStatus, late_error
from sse_keepalive_proxy.stream.states import CloseReason
from tests.support.sse_reference import parse

UPSTREAM_401 = (401, "upstream says 401")
NO_ERRORS = (CloseReason.CLIENT_GONE, CloseReason.CLIENT_STALLED, CloseReason.UPSTREAM_END)


API_401 = (
    b'data: {"type":"error","error":{"type":"api_error","code":"401","message":"upstream says 401"},'
    b'"code":"401","message":"upstream says 401","param":null,"sequence_number":0}\n\n'
)
API_DRAIN = (
    b'data: {"type":"error","error":{"type":"api_error","code":"drain","message":"the proxy is shutting '
    b'down"},"code":"drain","message":"the proxy is shutting down","param":null,"sequence_number":0}\n\n'
)
GOOGLE_401 = b'{"error":{"code":401,"message":"upstream says 401","status":"UNAUTHENTICATED"}}\n\n'
GOOGLE_DRAIN = b'{"error":{"code":503,"message":"the proxy is shutting down","status":"UNAVAILABLE"}}\n\n'
REFUSED = {
    LateError.API_ERROR: b"event: error\n" + API_401,
    LateError.SDK_ERROR: API_401 + b"event: error\n" + API_401 + b":\n",
    LateError.GOOGLE: GOOGLE_401 + b"data: " + GOOGLE_401,
    LateError.JSON_RPC: (
        b'data: {"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"upstream says 401"}}\n\n'
    ),
    LateError.PROXY_ERROR: (
        b'event: proxy_error\ndata: {"type":"proxy_error","status":401,"message":"upstream says 401"}\n\n'
    ),
}
DRAINED = {
    LateError.API_ERROR: b"event: error\n" + API_DRAIN,
    LateError.SDK_ERROR: API_DRAIN + b"event: error\n" + API_DRAIN + b":\n",
    LateError.GOOGLE: GOOGLE_DRAIN + b"data: " + GOOGLE_DRAIN,
    LateError.JSON_RPC: (
        b'data: {"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"the proxy is shutting down"}}\n\n'
    ),
    LateError.PROXY_ERROR: (
        b"event: proxy_error\n"
        b'data: {"type":"proxy_error","status":503,"message":"the proxy is shutting down"}\n\n'
    ),
}


@pytest.mark.parametrize("form", LateError)
@pytest.mark.parametrize(
    ("reason", "late", "told"),
    [(CloseReason.UNAUTHORIZED, UPSTREAM_401, REFUSED), (CloseReason.DRAIN, None, DRAINED)],
    ids=["a late refusal", "the clock"],
)
def test_each_family_is_told_in_its_own_words(
    form: LateError, reason: CloseReason, late: LateStatus | None, told: dict[LateError, bytes]
) -> None:
    assert late_error(form, reason, late, 7) == told[form]


@pytest.mark.parametrize("form", LateError)
@pytest.mark.parametrize("reason", CloseReason)
def test_every_end_of_our_own_has_words_and_no_other_end_has(form: LateError, reason: CloseReason) -> None:
    frame = late_error(form, reason, None, "a")
    if reason in NO_ERRORS:
        assert frame == b""
    elif form is LateError.PROXY_ERROR and reason is CloseReason.UPSTREAM_RESET:
        assert frame == b""  # such a client sees the cut that it would see directly
    else:
        events = parse(frame).events
        assert len(events) == (2 if form is LateError.SDK_ERROR else 1)
        assert len({event.data for event in events}) == 1
        json.loads(events[0].data)


@pytest.mark.parametrize(
    ("status", "code", "named"),
    [
        (400, 400, "INVALID_ARGUMENT"),
        (401, 401, "UNAUTHENTICATED"),
        (403, 403, "PERMISSION_DENIED"),
        (404, 404, "NOT_FOUND"),
        (418, 418, "INVALID_ARGUMENT"),
        (429, 429, "RESOURCE_EXHAUSTED"),
        (500, 500, "INTERNAL"),
        (502, 502, "UNAVAILABLE"),
        (503, 503, "UNAVAILABLE"),
        (504, 504, "DEADLINE_EXCEEDED"),
        (599, 599, "INTERNAL"),
        (200, 502, "UNAVAILABLE"),  # an answer that is no stream
        (302, 502, "UNAVAILABLE"),
    ],
)
def test_google_gets_the_name_of_a_code_and_never_the_status_of_a_success(
    status: int, code: int, named: str
) -> None:
    frame = late_error(LateError.GOOGLE, CloseReason.UPSTREAM_STATUS, (status, "words"))
    expected = {"error": {"code": code, "message": "words", "status": named}}
    assert json.loads(parse(frame).events[0].data) == expected


def test_a_language_model_client_gets_no_status_of_a_success_as_the_code_of_an_error() -> None:
    frame = late_error(LateError.API_ERROR, CloseReason.UPSTREAM_STATUS, (200, "words"))
    assert json.loads(parse(frame).events[0].data)["code"] == "502"


@pytest.mark.parametrize("request_id", ["a\nid: 7\u2028é", 0, -3, ""])
def test_a_json_rpc_error_has_the_id_of_its_request(request_id: str | int) -> None:
    frame = late_error(LateError.JSON_RPC, CloseReason.STALLED, None, request_id)
    (event,) = parse(frame).events
    assert event.type == "message"
    assert json.loads(event.data)["id"] == request_id
    assert frame.count(b"\n") == 2


def test_without_the_id_of_a_request_a_json_rpc_client_can_only_see_the_cut() -> None:
    assert late_error(LateError.JSON_RPC, CloseReason.DRAIN, None, None) == b""
