"""The page `docs/reference/clients.md`, written from the results of the last whole run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sse_keepalive_proxy.stream.families import TREATMENTS, LateError, Treatment
from sse_keepalive_proxy.stream.policy import ConfirmForm, Family, Terminator
from tests.clients.matrix import KNOWN
from tests.clients.protocols import Protocol
from tests.clients.results import Result, load

__all__ = ["FILE", "markdown", "reason"]

FILE = Path(__file__).parents[2] / "docs" / "reference" / "clients.md"

_TOP = """\
# Clients

Written by `make clients` from [clients.json](clients.json), the results of its last run. Each row is a client
library in one version, with one protocol. It runs in its own process, directly at a scripted server and
through the proxy with its defaults and a short ping interval. What its user sees is compared: events,
exceptions, warnings, and the end. The streams have silences before the first event, between events and inside
an event, comments of the server, an end in an unfinished event, a cut, and refusals. Requests of MCP's old
transport do not show that they are MCP's, so its route says `client: mcp`, as in the
[guide](../guides/mcp.md). The rules are in [behaviour](behaviour.md#client-families).
"""

_GETS = """
## What each family gets

The first row that fits decides; `client` of the route decides before all of them.

| family | confirm | ping | gap, stall, end | late error | early commit | asked again (`resumable`) |
|---|---|---|---|---|---|---|
"""

_SEES = """
## What the user of each client sees

*Streams*: whether everything is as it is directly. *Late refusal*: upstream's 401, 0.9 s after the request,
with `early_commit` for GET and POST. *Ended by the proxy*: `max_age` in mid-stream. *Cut*: upstream's
connection is lost in mid-stream, as seen directly.

| client | version | protocol | taken for | streams | late refusal | ended by the proxy | cut |
|---|---|---|---|---|---|---|---|
"""

_BEARS = """
## What each client bears

Without the proxy: the server itself sends these frames between whole events. *Nothing* means that the user
sees the same as without them. This is the reason for the families.

| client | version | protocol | comment, blank line | comment line | event with a name | error in the stream |
|---|---|---|---|---|---|---|
"""

_KNOWN_BY = """
## How they are recognised

The fields of the first request that tell clients apart.

| client | version | request |
|---|---|---|
"""

_DIFFER = """
## Rows that are worse than directly

"""

_ERRORS = {
    LateError.JSON_RPC: "a JSON-RPC error",
    LateError.GOOGLE: "an `error` object",
    LateError.API_ERROR: "an `error` event",
    LateError.SDK_ERROR: "an `error` event",
    LateError.PROXY_ERROR: "a `proxy_error` event",
}
_ENDS = {
    Terminator.NEWLINE: "\\n",
    Terminator.BLANK: "\\n\\n",
    Terminator.AUTO: "",
}
_NO_STREAM_IN_BODY = (Family.GEMINI_PYTHON, Family.GEMINI)
"""Families whose body does not say whether a stream is wanted (behaviour.md#early-commit)."""


def markdown(results: Sequence[Result]) -> str:
    """The whole page."""
    return "".join(
        [
            _TOP,
            _GETS,
            _lines(f"| `{family}` | {_treatment(family, given)} |" for family, given in TREATMENTS.items()),
            _SEES,
            _lines(_row(each, *_sees(each)) for each in results),
            _BEARS,
            _lines(_row(each, *_bears(each)) for each in results),
            _KNOWN_BY,
            _lines(_recognised(results)),
            _DIFFER,
            _lines(_differ(results)) or "None.\n",
        ]
    )


def reason(result: Result, difference: str) -> str:
    """The reason for a difference; empty where none is known."""
    line = f"{result.title}: {difference}"
    return next((why for begin, why in KNOWN.items() if line.startswith(begin)), "")


def _treatment(family: Family, given: Treatment) -> str:
    end = _ENDS[given.terminator]
    confirm = {None: "none", ConfirmForm.COMMENT: f"`:ok{end}`", ConfirmForm.EVENT: "event"}[given.confirm]
    notices = {None: "none", ConfirmForm.COMMENT: "comments", ConfirmForm.EVENT: "events"}[given.notices]
    early = "yes" if given.early_commit else "no"
    if family in _NO_STREAM_IN_BODY:
        early = "only with `Accept: text/event-stream`"
    again = "after a fault" if given.resumes else "no"
    if given.comes_back:
        again += " and a clean end"
    return " | ".join(
        (confirm, f"`:ping{end}`" if given.pings else "none", notices, _ERRORS[given.error], early, again)
    )


def _row(result: Result, *cells: str) -> str:
    protocol = Protocol(result.protocol).words + (", POST" if result.post else "")
    name = f"{result.client} ({result.language})" if result.version else result.client
    return "| " + " | ".join((name, result.version, protocol, *map(_cell, cells))) + " |"


def _sees(result: Result) -> Iterator[str]:
    yield ", ".join(result.families)
    yield "as directly" if not result.differs else "**see below**"
    yield result.late
    yield result.aged
    yield result.bears["cut"]


def _bears(result: Result) -> Iterator[str]:
    for scene in ("blank", "newline", "named", "told"):
        yield result.bears[scene]


def _recognised(results: Iterable[Result]) -> Iterator[str]:
    said = set()
    for result in results:
        fields = ", ".join(f"`{name}: {value}`" for name, value in result.request.items())
        line = f"| {result.client} ({result.language}) | {result.version} | {_cell(fields)} |"
        if line not in said:
            yield line
        said.add(line)


def _differ(results: Iterable[Result]) -> Iterator[str]:
    for result in results:
        for difference in result.differs:
            yield f"- **{result.title}**: {difference}. {reason(result, difference)}".rstrip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(markdown(load()))
