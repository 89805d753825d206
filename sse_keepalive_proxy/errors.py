"""Every exception of the package, in one tree.

    ProxyError
    ├── ConfigurationError      the file, the environment or a flag is wrong; carries every problem
    ├── CannotListen            an address of the configuration cannot be listened on
    ├── AnswerCut               a response has begun and cannot be completed; also a ConnectionError
    ├── EncodingError           text that would break a frame of an event stream
    ├── EventTooLarge           an upstream event exceeds `max_event`
    ├── CodingInvalid           the chunked coding of a body is broken
    ├── InvalidMessage          a message of NATS cannot be read
    ├── RequestInvalid          a client's bytes are not an HTTP request
    ├── RequestBodyError        a request body cannot be forwarded
    │   ├── BodyTooLarge        it exceeds `limits.max_request_body`
    │   ├── BodyInvalid         its chunked coding is broken
    │   └── BodyTooLate         it was not complete in time
    └── UpstreamError           upstream gave no usable answer
        ├── UpstreamRefused     no connection could be made (name, route, port, TLS)
        ├── UpstreamTimeout     no connection or no response head in time
        ├── UpstreamReset       the connection broke before the message was complete
        └── UpstreamInvalid     what upstream sent is not HTTP

The expected ends of a stream (the client leaves, upstream ends) are values of `stream.states.CloseReason`,
not exceptions.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AnswerCut",
    "BodyInvalid",
    "BodyTooLarge",
    "BodyTooLate",
    "CannotListen",
    "CodingInvalid",
    "ConfigurationError",
    "EncodingError",
    "EventTooLarge",
    "InvalidMessage",
    "Problem",
    "ProxyError",
    "RequestBodyError",
    "RequestInvalid",
    "UpstreamError",
    "UpstreamInvalid",
    "UpstreamRefused",
    "UpstreamReset",
    "UpstreamTimeout",
]


class ProxyError(Exception):
    """The base class of every exception that this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a configuration, with its place and a hint for its repair.

    `str()` gives the line for the operator: ``config.yaml:14: routes[0].stream: message (hint)``.
    """

    message: str
    path: str = ""
    hint: str = ""
    file: str = ""
    line: int = 0
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        path = f"{self.path}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        kind = "warning: " if self.warning else ""
        return f"{where}{kind}{path}{self.message}{hint}"


class ConfigurationError(ProxyError):
    """A configuration cannot be used. `problems` holds every problem, in file order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class CannotListen(ProxyError):
    """The proxy cannot listen on an address. The message names the address, the cause and the remedy."""


class AnswerCut(ProxyError, ConnectionError):
    """A response has begun and cannot be completed. The caller closes the connection."""


class EncodingError(ProxyError, ValueError):
    """Text that would break its frame: it contains CR, LF, NUL or half a surrogate pair."""


class EventTooLarge(ProxyError):
    """An event is larger than `limit` bytes. `blocks` holds the whole blocks before it."""

    def __init__(self, limit: int, blocks: bytes) -> None:
        super().__init__(f"an upstream event is larger than max_event ({limit} bytes)")
        self.limit = limit
        self.blocks = blocks


class CodingInvalid(ProxyError):
    """The chunked coding of a body is broken. The message goes on after the name of the body. `found` holds
    the data before the fault.
    """

    def __init__(self, text: str, found: bytes) -> None:
        super().__init__(text)
        self.found = found


class InvalidMessage(ProxyError):
    """A message of NATS cannot be read. The text says why, without any part of the message."""


class RequestInvalid(ProxyError):
    """A client's bytes are no request that is taken. `status` and the message are the answer to it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class RequestBodyError(ProxyError):
    """A request body cannot be forwarded, so the proxy itself answers. The message is for the client."""


class BodyTooLarge(RequestBodyError):
    """A request's body is larger than `limits.max_request_body`."""


class BodyInvalid(RequestBodyError):
    """The chunked coding of a request body is broken."""


class BodyTooLate(RequestBodyError):
    """A request's body paused for too long before the answer began."""


class UpstreamError(ProxyError):
    """Upstream gave no usable answer. The message is for the log; it holds no credential."""


class UpstreamRefused(UpstreamError):
    """No connection to upstream could be made. The message names its address; `text` is for the client."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


class UpstreamTimeout(UpstreamError):
    """Upstream was too slow to accept the connection or to send its response head."""


class UpstreamReset(UpstreamError):
    """The connection to upstream broke before its message was complete. The client reads the message, too: it
    holds no input of a peer.
    """


class UpstreamInvalid(UpstreamError):
    """The bytes from upstream are not HTTP/1.1. The client reads the message, too: see `UpstreamReset`."""
