"""What was seen in the three scenes of the story, and whether it amounts to a healed stream. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sse_keepalive_proxy.demo.observer import Figures
from sse_keepalive_proxy.demo.table import duration

__all__ = ["COUNTED", "SCENES", "STALLED", "Findings", "Scene", "Told", "judge", "table"]

SCENES = ("silence", "first event", "upstream restart")
STALLED = "sse_proxy_upstream_stalled_streams"
COUNTED = "sse_proxy_upstream_eof_after_first_event_total"

_PROMPT = 1.0  # seconds in which a first byte came at once
_SLACK = 0.5  # seconds: 250 ms of the promise, and a busy machine
_WIDTHS = (18, 29)


@dataclass(frozen=True, slots=True)
class Scene:
    """Both streams at the end of a scene."""

    direct: Figures
    proxied: Figures


@dataclass(frozen=True, slots=True)
class Told:
    """The whole story: nobody wrote; two messages were sent, with upstream's end between them; upstream
    restarted, and one more was sent. The direct stream of `restart` is a fresh one.

    stalled, counted: whether the metrics showed upstream's silence, and its end after the first event.
    interval: the keepalive's, in seconds.
    """

    silence: Scene
    event: Scene
    restart: Scene
    stalled: bool
    counted: bool
    interval: float


@dataclass(frozen=True, slots=True)
class Findings:
    """What speaks against a scene: `direct` that nothing was to be healed, `proxied` that it is not."""

    direct: tuple[str, ...]
    proxied: tuple[str, ...]


def judge(told: Told) -> tuple[Findings, Findings, Findings]:
    """The findings of the three scenes; nothing in any of them when the stream is healed."""
    return _silence(told), _first_event(told), _restart(told)


def table(told: Told) -> list[str]:
    """The scenes side by side: dead or not, alive or not, and by what one sees it."""
    seen = (
        (_silent(told.silence.direct), _kept(told.silence.proxied)),
        (_unheard(told.event.direct), _heard(told.event.proxied, told.silence.proxied)),
        (_broken(told.restart.direct), _heard(told.restart.proxied, told.event.proxied)),
    )
    rows = [("", "direct", "through the proxy")]
    for name, found, (direct, proxied) in zip(SCENES, judge(told), seen, strict=True):
        dead = "not dead" if found.direct else "dead"
        alive = "not alive" if found.proxied else "alive"
        rows.append((name, f"{dead}: {direct}", f"{alive}: {proxied}"))
    scene, column = _WIDTHS
    return [f"  {name:<{scene}}{direct:<{column}}{proxied}" for name, direct, proxied in rows]


def _silence(told: Told) -> Findings:
    direct, proxied = told.silence.direct, told.silence.proxied
    against = []
    if proxied.first_byte_after is None or proxied.first_byte_after > _PROMPT:
        against.append("no byte came at once")
    if proxied.confirm_after is None:
        against.append("no confirm came that onmessage hears")
    if not proxied.pings:
        against.append("no ping came")
    if not told.stalled:
        against.append(f"the metrics did not show that upstream was silent ({STALLED})")
    return Findings(
        (f"it was not silent ({direct.bytes} bytes)",) if direct.bytes else (),
        (*against, *_not_alive(proxied, told.interval)),
    )


def _first_event(told: Told) -> Findings:
    direct, proxied, before = told.event.direct, told.event.proxied, told.silence.proxied
    nothing = []
    if direct.messages:
        nothing.append("onmessage heard the message")
    if direct.end is None:
        nothing.append("upstream did not end it after its first event")
    against = []
    if proxied.messages == before.messages:
        against.append("the message did not reach onmessage")
    if proxied.gaps == before.gaps:
        against.append("no gap was told when upstream had ended")
    if proxied.messages < before.messages + 2:
        against.append("the second message did not reach onmessage")
    if not told.counted:
        against.append(f"the metrics did not count upstream's end after its first event ({COUNTED})")
    return Findings(tuple(nothing), (*against, *_not_alive(proxied, told.interval)))


def _restart(told: Told) -> Findings:
    direct, proxied, before = told.restart.direct, told.restart.proxied, told.event.proxied
    against = []
    if proxied.gaps == before.gaps:
        against.append("no gap was told when upstream was back")
    if proxied.messages == before.messages:
        against.append("the message after the restart did not reach onmessage")
    return Findings(
        ("the restart did not break it",) if direct.end is None else (),
        (*against, *_not_alive(proxied, told.interval)),
    )


def _not_alive(proxied: Figures, interval: float) -> list[str]:
    """What holds in every scene: it is open, and never silent for longer than the interval."""
    against = []
    if proxied.end is not None:
        against.append(f"it ended: {proxied.end}")
    if proxied.longest_silence > interval + _SLACK:
        against.append(f"it was silent for {duration(proxied.longest_silence)}")
    return against


# What is seen, in as few words as a column holds.


def _silent(direct: Figures) -> str:
    return f"{direct.bytes or 'no'} bytes in {duration(direct.age)}"


def _kept(proxied: Figures) -> str:
    first = proxied.first_byte_after
    return f"{'no byte' if first is None else f'byte after {duration(first)}'}, {proxied.pings} pings"


def _unheard(direct: Figures) -> str:
    heard = "heard" if direct.messages else "unheard"
    return f"{heard}, {'still open' if direct.end is None else 'then closed'}"


def _broken(direct: Figures) -> str:
    return "still open" if direct.end is None else "broken off"


def _heard(proxied: Figures, before: Figures) -> str:
    told = proxied.gap is not None and proxied.gaps > before.gaps
    gap = f"gap of {duration(proxied.gap.seconds)}" if told and proxied.gap is not None else "no gap told"
    return f"{gap}, {proxied.messages - before.messages} heard"
