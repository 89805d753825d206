"""Client families: who sent a request, and what such a client gets.

`recognise` decides by the request alone. `TREATMENTS` is the only table of what each family gets
(behaviour.md#client-families has the rules, facts.md#client-families the evidence). `treatment` and
`treated` combine a row of it with the settings of a route, once for each family and not for each stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType

from sse_keepalive_proxy.stream.policy import (
    ConfirmForm,
    Family,
    KeepaliveForm,
    Reconnect,
    ReconnectWhen,
    StreamPolicy,
    Terminator,
)

__all__ = [
    "DONE",
    "TREATMENTS",
    "Family",
    "LateError",
    "Treatment",
    "accepts_streams",
    "is_library",
    "recognise",
    "takes_streams",
    "terminator_for",
    "treated",
    "treatment",
]

DONE = b"[DONE]"
"""The data of the last event of a chat completion, which has no name and is no JSON."""

_STREAM = b"text/event-stream"
_BOTH_TYPES = frozenset({b"application/json", _STREAM})
_MOST_TYPES = 64
_NOTHING: Sequence[bytes] = ()
_GENAI = re.compile(rb"\bgoogle-genai-sdk/(\d{1,4})\.(\d{1,4})\b")
_LIBRARIES = (b"dart", b"go-http-client", b"java", b"node", b"okhttp", b"python", b"ruby")


class LateError(StrEnum):
    """The form of an error that comes after a client's response has begun.

    `json_rpc`: a JSON-RPC error with the id of the request. `google`: the `error` object of Google's APIs.
    `api_error`: an `error` event that the libraries of language models raise. `sdk_error`: the same in a form
    that also old SDKs of OpenAI and Anthropic read. `proxy_error`: our own event.
    """

    JSON_RPC = "json_rpc"
    GOOGLE = "google"
    API_ERROR = "api_error"
    SDK_ERROR = "sdk_error"
    PROXY_ERROR = "proxy_error"


@dataclass(frozen=True, slots=True)
class Treatment:
    """What the clients of one family get.

    `confirm`: the form of the confirm. `pings`: whether they get ping comments. `terminator`: the end of
    every comment; for `auto` see `terminator_for`. `notices`: the form of the notices of a gap, of a stall
    and of an end by the proxy. None means that nothing is sent. Where notices are events, the event
    `stream_closing` is the whole end of a stream; for all others an end by the proxy is a cut.
    `early_commit`: whether they may get a 200 before upstream has answered. `resumes`: whether
    `reconnect.when: resumable` applies to them, because the protocol has ids to resume with. `comes_back`:
    whether the client itself reconnects also after a clean end; any other client reads a stream to its end.
    `last_events`: the names, types or data of the event after which upstream has nothing more to send.
    """

    confirm: ConfirmForm | None
    pings: bool
    terminator: Terminator
    notices: ConfirmForm | None
    error: LateError
    early_commit: bool = True
    resumes: bool = False
    comes_back: bool = False
    last_events: frozenset[bytes] = frozenset()


_EVENT, _COMMENT = ConfirmForm.EVENT, ConfirmForm.COMMENT
_AUTO, _BLANK, _NEWLINE = Terminator.AUTO, Terminator.BLANK, Terminator.NEWLINE

TREATMENTS: Mapping[Family, Treatment] = MappingProxyType(
    {
        Family.MCP: Treatment(
            _COMMENT, True, _NEWLINE, _COMMENT, LateError.JSON_RPC, early_commit=False, resumes=True
        ),
        Family.GEMINI_PYTHON: Treatment(None, False, _NEWLINE, None, LateError.GOOGLE),
        Family.GEMINI: Treatment(_COMMENT, True, _BLANK, _COMMENT, LateError.GOOGLE),
        Family.ANTHROPIC: Treatment(
            _COMMENT,
            True,
            _NEWLINE,
            _COMMENT,
            LateError.API_ERROR,
            last_events=frozenset({b"message_stop"}),
        ),
        Family.OPENAI: Treatment(
            _COMMENT,
            True,
            _AUTO,
            _COMMENT,
            LateError.API_ERROR,
            last_events=frozenset({DONE, b"response.completed", b"response.failed", b"response.incomplete"}),
        ),
        Family.BROWSER: Treatment(
            _EVENT, True, _NEWLINE, _EVENT, LateError.PROXY_ERROR, resumes=True, comes_back=True
        ),
        Family.HTTP: Treatment(_COMMENT, True, _AUTO, _COMMENT, LateError.PROXY_ERROR),
    }
)
"""The families in the order in which `recognise` looks for them, each with its treatment."""


def recognise(method: str, *, has_body: bool, named: Mapping[bytes, Sequence[bytes]]) -> Family:
    """Return the family of a request, never `auto`. `named`: the header values by names in lower case."""
    accepts, names = named.get(b"accept", _NOTHING), _joined(named)
    if b"\nmcp-" in names or _types(accepts) == _BOTH_TYPES:
        return Family.MCP
    if google := named.get(b"x-goog-api-client"):
        return Family.GEMINI if _accepts_comments(b" ".join(google)) else Family.GEMINI_PYTHON
    if b"anthropic-version" in named:
        return Family.ANTHROPIC
    if has_body or _is_sdk(named):
        return Family.OPENAI
    if method == "GET" and list(accepts) == [_STREAM] and named.get(b"cache-control") == [b"no-cache"]:
        return Family.BROWSER
    return Family.HTTP


def terminator_for(family: Family, named: Mapping[bytes, Sequence[bytes]]) -> Terminator:
    """Return how comments for one client end.

    Where the table has `auto`, clients that read lines get one newline: to some of them a blank line is an
    event. For the others it stays `auto`, a blank line until upstream has sent an id: readers that split at
    blank lines would lose the block behind a newline comment.
    """
    terminator = TREATMENTS[family].terminator
    if terminator is not Terminator.AUTO:
        return terminator
    lines = accepts_streams(named) or _is_sdk(named)
    return Terminator.NEWLINE if lines else Terminator.AUTO


def accepts_streams(named: Mapping[bytes, Sequence[bytes]]) -> bool:
    """Return whether the `Accept` of a request names event streams. `named` as for `recognise`."""
    return _STREAM in _types(named.get(b"accept", _NOTHING))


def takes_streams(named: Mapping[bytes, Sequence[bytes]]) -> bool:
    """Return whether the `Accept` of a request names event streams, or no type at all."""
    return accepts_streams(named) or _types(named.get(b"accept", _NOTHING)) <= {b"", b"*/*"}


def is_library(family: Family, named: Mapping[bytes, Sequence[bytes]]) -> bool:
    """Return whether the headers name a library that reads a stream in its own way.

    For `openai` and `anthropic`, this is their own SDK (`X-Stainless-*`). For the others, `User-Agent` begins
    with the name of a language or of its HTTP library: some of these send what an EventSource sends, but hand
    over every event, also one with a name that their user does not know.
    """
    if TREATMENTS[family].error is LateError.API_ERROR:
        return _is_sdk(named)
    agents = named.get(b"user-agent", _NOTHING)
    return any(agent.lower().startswith(_LIBRARIES) for agent in agents)


def treatment(
    policy: StreamPolicy, family: Family, terminator: Terminator, *, library: bool = False
) -> Treatment:
    """Return what the clients of `family` get on a route with `policy`. `terminator`: see `terminator_for`,
    `library`: see `is_library`.

    A terminator and a form of the confirm that the route names override the table. The notices have the form
    of such a confirm.
    """
    gets, named = TREATMENTS[family], ConfirmForm.AUTO
    if library and gets.notices is _EVENT:
        gets = replace(gets, confirm=_COMMENT, notices=_COMMENT)
    if library and gets.error is LateError.API_ERROR:
        gets = replace(gets, error=LateError.SDK_ERROR)
    if policy.confirm is None:
        gets = replace(gets, confirm=None)
    else:
        named = policy.confirm.form
    if named is not ConfirmForm.AUTO:
        gets = replace(gets, confirm=named, notices=named)
    if policy.keepalive is not None and policy.keepalive.terminator is not Terminator.AUTO:
        terminator = policy.keepalive.terminator
    return replace(gets, terminator=terminator)


def treated(policy: StreamPolicy, gets: Treatment) -> StreamPolicy:
    """Return `policy` without the concerns that are not for clients with this treatment."""
    keepalive, early_commit = policy.keepalive, policy.early_commit
    if keepalive is not None and keepalive.form is KeepaliveForm.COMMENT and not gets.pings:
        keepalive = None
    return replace(
        policy,
        keepalive=keepalive,
        early_commit=early_commit if gets.early_commit else None,
        reconnect=policy.reconnect if gets.comes_back else _for_others(policy.reconnect, gets),
    )


def _for_others(reconnect: Reconnect | None, gets: Treatment) -> Reconnect | None:
    """Return `reconnect` for a client that does not come back by itself: it gets the truth at once."""
    always = reconnect is not None and reconnect.when is ReconnectWhen.ALWAYS
    if reconnect is None or not (always or gets.resumes):
        return None
    return replace(reconnect, first_within=None, after_end=always)


def _accepts_comments(google: bytes) -> bool:
    """Whether `X-Goog-Api-Client` names google-genai for JavaScript, 1.32 or newer. Comments break others."""
    found = _GENAI.search(google)
    if found is None or b" gl-node/" not in google[found.end() :]:
        return False
    return (int(found[1]), int(found[2])) >= (1, 32)


def _is_sdk(named: Mapping[bytes, Sequence[bytes]]) -> bool:
    """Whether the request has a field `X-Stainless-*`, as those of the SDKs of OpenAI and Anthropic."""
    return b"\nx-stainless-" in _joined(named)


def _joined(names: Iterable[bytes]) -> bytes:
    """Return `names` as lines, so that one search finds how a name begins."""
    return b"\n" + b"\n".join(names)


def _types(accepts: Sequence[bytes]) -> frozenset[bytes]:
    """Return the media types of the `Accept` fields: see `_listed`."""
    return _listed(b",".join(accepts))


@lru_cache(maxsize=32)
def _listed(accept: bytes) -> frozenset[bytes]:
    """Return the first 64 media types of a list, in lower case, without parameters. Clients of one kind send
    the same list, and a request needs it several times.
    """
    parts = accept.split(b",", _MOST_TYPES)[:_MOST_TYPES]
    return frozenset([part.partition(b";")[0].strip().lower() for part in parts])
