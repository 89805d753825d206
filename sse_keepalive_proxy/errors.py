"""Every exception of the package, in one tree.

    ProxyError
    ├── ConfigurationError      the file, the environment or a flag is wrong; carries every problem
    ├── CannotListen            an address of the configuration cannot be listened on
    ├── AnswerCut               an answer has begun and cannot be whole; a ConnectionError too
    ├── EncodingError           a frame that would break the event stream was asked for
    ├── EventTooLarge           an upstream event exceeds `max_event`
    ├── RequestInvalid          a client's bytes are no HTTP request
    ├── RequestBodyError        a request's body cannot be passed on
    │   ├── BodyTooLarge        it exceeds `limits.max_request_body`
    │   ├── BodyInvalid         its chunked coding is broken
    │   └── BodyTooLate         it did not come in time
    └── UpstreamError           upstream gave no usable answer
        ├── UpstreamRefused     no connection could be made (name, route, port, TLS)
        ├── UpstreamTimeout     no connection or no response head in time
        ├── UpstreamReset       the connection broke before the message was whole
        └── UpstreamInvalid     what upstream sent is not HTTP

Expected endings of a stream (the client leaves, upstream ends) are values, not exceptions:
see `stream.lifecycle.CloseReason`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AnswerCut",
    "BodyInvalid",
    "BodyTooLarge",
    "BodyTooLate",
    "CannotListen",
    "ConfigurationError",
    "EncodingError",
    "EventTooLarge",
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
    """Base of everything this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration, said so that it can be mended.

    `str()` gives the line an operator reads: ``config.yaml:14: routes[0].stream: message (hint)``.
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
    """A configuration that cannot be used. `problems` holds all of them, in file order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class CannotListen(ProxyError):
    """An address cannot be listened on. The message says which, why, and what to do."""


class AnswerCut(ProxyError, ConnectionError):
    """A response has begun and cannot be whole: its connection is closed under it."""


class EncodingError(ProxyError, ValueError):
    """Text that would break the frame it was to be put in (CR, LF or NUL in it)."""


class EventTooLarge(ProxyError):
    """An event grew past `limit` bytes. `blocks` holds the whole blocks that came before it."""

    def __init__(self, limit: int, blocks: bytes) -> None:
        super().__init__(f"an upstream event is larger than max_event ({limit} bytes)")
        self.limit = limit
        self.blocks = blocks


class RequestInvalid(ProxyError):
    """A client's bytes are no request that is taken. `status` and the message are the answer to it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class RequestBodyError(ProxyError):
    """A request's body cannot be passed on, so that its answer is ours. The message is for the client."""


class BodyTooLarge(RequestBodyError):
    """A request's body is larger than `limits.max_request_body`."""


class BodyInvalid(RequestBodyError):
    """A request's body is not what its head announced: its chunked coding is broken."""


class BodyTooLate(RequestBodyError):
    """A request's body is not whole though upstream has begun to answer with a stream, for too long."""


class UpstreamError(ProxyError):
    """Upstream gave no usable answer. The message is for the log; it holds no credential."""


class UpstreamRefused(UpstreamError):
    """No connection to upstream could be made."""


class UpstreamTimeout(UpstreamError):
    """Upstream was too slow: to connect, or to send its response head."""


class UpstreamReset(UpstreamError):
    """The connection to upstream broke before its message was whole."""


class UpstreamInvalid(UpstreamError):
    """Upstream's bytes are not HTTP/1.1."""
