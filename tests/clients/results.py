"""What a played row comes to: what the library's user sees through the proxy and does not see directly.

A result is plain data; `docs/reference/clients.json` keeps those of the last whole run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.clients.matrix import Row
from tests.clients.play import Played, Seen
from tests.clients.protocols import Protocol
from tests.clients.upstream import QUIET, Scene

__all__ = ["FILE", "Result", "load", "result_of", "save"]

FILE = Path(__file__).parents[2] / "docs" / "reference" / "clients.json"
_REASONS = ("upstream says", "upstream answered", "largest age")  # of the scripted upstream and of the proxy


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the page.

    `request`: the fields that tell what the client is. `families`: what the proxy took it for. `pinged`:
    whether the proxy has sent a ping. `bears`: what becomes of the client when upstream itself sends a
    comment, a named event, an error in the words of its family, or nothing more (a cut). `late`: a refusal
    after an early commit, `aged`: an end by the proxy, both as the client's user sees them. `differs`: all
    that the proxy made worse.
    """

    language: str
    client: str
    version: str
    protocol: str
    post: bool
    request: dict[str, str]
    families: list[str]
    pinged: bool
    bears: dict[str, str]
    late: str
    aged: str
    differs: list[str]

    @property
    def title(self) -> str:
        """The title of its row."""
        words = (self.language, self.client, self.version, self.protocol, "POST" if self.post else "")
        return " ".join(filter(None, words))


def result_of(played: Played) -> Result:
    """Compare what was seen directly and through the proxy."""
    row, direct, proxied = played.row, played.direct, played.proxied
    return Result(
        row.language,
        row.client,
        row.version,
        row.protocol,
        row.post,
        played.request,
        played.families,
        played.pings > 0,
        {
            scene.value: _borne(direct[scene], direct[Scene.WHOLE], row.protocol)
            for scene in (Scene.BLANK, Scene.NEWLINE, Scene.NAMED, Scene.TOLD, Scene.CUT)
        },
        _words(proxied[Scene.LATE_401]),
        "connects again" if row.reconnects else _words(proxied[Scene.AGED]),
        [*_differences(played)],
    )


def _borne(seen: Seen, whole: Seen, protocol: Protocol) -> str:
    """What a kind of frame does to a client."""
    if seen.warnings and not whole.warnings:
        return f"a warning: {seen.warnings[0]}"
    if seen.error or not seen.ended:
        return _words(seen)
    expected, got = _events(whole, protocol), _events(seen, protocol)
    if got == expected:
        return "nothing"
    if len(got) > len(expected):
        return "an event for each"
    return f"{len(expected) - len(got)} of {len(expected)} events lost"


def _words(seen: Seen) -> str:
    """How a stream ended, for people: the exception's class, and its text where the error's own is in it."""
    if seen.error is None:
        return "ends as if it were whole" if seen.ended else "hangs"
    heard = any(words in str(seen.error["text"]) for words in _REASONS)
    return seen.ending + (", with the reason" if heard else "")


def _differences(played: Played) -> Iterator[str]:
    row, direct, proxied = played.row, played.direct, played.proxied
    for scene in [scene for scene in QUIET if scene in proxied]:
        yield from _unlike(scene, direct[scene], proxied[scene], row)
    quiet = [scene for scene in QUIET if scene in proxied]
    expected = {warning for scene in quiet for warning in direct[scene].warnings}
    for warning in sorted({each for scene in quiet for each in proxied[scene].warnings} - expected):
        yield f"a warning: {warning}"
    yield from _unlike(Scene.REFUSED, direct[Scene.REFUSED], proxied[Scene.REFUSED], row)
    whole, cut, aged = direct[Scene.WHOLE].events, proxied[Scene.CUT], proxied[Scene.AGED]
    recovers = direct[Scene.CUT].ended and direct[Scene.CUT].events == whole  # the client itself comes back
    healed = cut.ended and cut.events == whole
    if not healed and (recovers or not cut.error):
        yield from _unlike(Scene.CUT, direct[Scene.CUT], cut, row)
    if not aged.error and not (recovers and aged.ended):
        yield f"{Scene.AGED}: {_words(aged)}"
    for scene in (Scene.LATE_401, Scene.LATE_500):
        late = proxied.get(scene)
        if late and not (late.error and (late.error["own"] or late.ending == direct[Scene.REFUSED].ending)):
            yield f"{scene}: {_words(late)}"


def _unlike(scene: Scene, direct: Seen, proxied: Seen, row: Row) -> Iterator[str]:
    expected, got = _events(direct, row.protocol), _events(proxied, row.protocol)
    more, less = (
        [each for each in got if each not in expected],
        [each for each in expected if each not in got],
    )
    if more or len(got) > len(expected):
        yield f"{scene}: {len(got) - len(expected) + len(less)} events more"
    if less:
        yield f"{scene}: {len(less)} events lost"
    if direct.ending != proxied.ending:
        yield f"{scene}: {_words(proxied)}, and not {_words(direct)}"


def _events(seen: Seen, protocol: Protocol) -> list[str]:
    """Its events; the two streams of an MCP session have no common order."""
    return sorted(seen.events) if protocol is Protocol.MCP else seen.events


def load(file: Path = FILE) -> list[Result]:
    """The results of the last whole run."""
    return [Result(**each) for each in json.loads(file.read_text(encoding="utf-8"))]


def save(results: list[Result], file: Path = FILE) -> None:
    """Keep results."""
    text = json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
