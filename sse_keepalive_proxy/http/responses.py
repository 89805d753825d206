"""Encode the proxy's own answers, without any input of the request."""

from __future__ import annotations

import random
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus

from sse_keepalive_proxy.http.headers import Header

__all__ = ["PLAIN_TEXT", "error_response", "retry_after", "whole_response"]

PLAIN_TEXT = b"text/plain; charset=utf-8"

_RETRY_AFTER = (1, 10)
"""Seconds: the range of a random number for each refused client (facts.md#equal-waits)."""


def retry_after() -> Header:
    """Return the field that tells a client when to try again."""
    return b"Retry-After", b"%d" % random.randint(*_RETRY_AFTER)  # noqa: S311 (spreads clients, guards nothing)


def error_response(status: int, text: str, fields: Sequence[Header] = ()) -> bytes:
    """Return a whole response with one line of text and further `fields`. The connection closes after it."""
    return whole_response(status, text.encode() + b"\n", fields=fields)


def whole_response(
    status: int,
    body: bytes,
    media_type: bytes = PLAIN_TEXT,
    *,
    fields: Sequence[Header] = (),
    keep_alive: bool = False,
) -> bytes:
    """Return a whole response with `body`, which may be empty, and further `fields`."""
    described = (b"Content-Type: " + media_type, b"Content-Length: %d" % len(body))
    head = [
        b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode()),
        b"Date: " + formatdate(usegmt=True).encode(),
        *(described if body else ()),
        b"Cache-Control: no-store",
        *(b"%b: %b" % field for field in fields),
        b"Connection: keep-alive" if keep_alive else b"Connection: close",
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body
