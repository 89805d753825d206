"""Judge the figures of the three scenes: is the stream healed? Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sse_keepalive_proxy.demo.observer import Figures
from sse_keepalive_proxy.demo.table import duration

__all__ = ["COUNTED", "SCENES", "STALLED", "Findings", "Scene", "Scenes", "judge", "table"]

SCENES = ("silence", "first event", "upstream restart")
STALLED = "sse_proxy_upstream_stalled_streams"
COUNTED = "sse_proxy_upstream_eof_after_first_event_total"

_PROMPT = 1.0  # seconds: the longest time for the first byte
_SLACK = 0.5  # seconds: the 250 ms of behaviour.md#downstream-silence, and a busy machine
_WIDTHS = (18, 33)


@dataclass(frozen=True, slots=True)
class Scene:
    """Both streams at the end of a scene."""

    direct: Figures
    proxied: Figures


@dataclass(frozen=True, slots=True)
class Scenes:
    """The three scenes: silence; two messages with upstream's end between them; a restart and one message.

    The direct stream of `restart` is a new one. `stalled`, `counted`: whether the metrics showed upstream's
    silence and its end after the first event. `interval`: the keepalive interval in seconds.
    """

    silence: Scene
    event: Scene
    restart: Scene
    stalled: bool
    counted: bool
    interval: float


@dataclass(frozen=True, slots=True)
class Findings:
    """The objections in a scene: `direct` was not dead, `proxied` was not alive."""

    direct: tuple[str, ...]
    proxied: tuple[str, ...]


def judge(scenes: Scenes) -> tuple[Findings, Findings, Findings]:
    """Return the findings of the three scenes. All are empty if the stream is healed."""
    return _silence(scenes), _first_event(scenes), _restart(scenes)


def table(scenes: Scenes) -> list[str]:
    """Return the scenes as a table: dead or not, alive or not, with the reason."""
    seen = (
        (_silent(scenes.silence.direct), _kept(scenes.silence.proxied)),
        (_unheard(scenes.event.direct), _heard(scenes.event.proxied, scenes.silence.proxied)),
        (_broken(scenes.restart.direct), _heard(scenes.restart.proxied, scenes.event.proxied)),
    )
    rows = [("", "direct", "through the proxy")]
    for name, found, (direct, proxied) in zip(SCENES, judge(scenes), seen, strict=True):
        dead = "not dead" if found.direct else "dead"
        alive = "not alive" if found.proxied else "alive"
        rows.append((name, f"{dead}: {direct}", f"{alive}: {proxied}"))
    scene, column = _WIDTHS
    return [f"  {name:<{scene}}{direct:<{column}}{proxied}" for name, direct, proxied in rows]


def _silence(scenes: Scenes) -> Findings:
    direct, proxied = scenes.silence.direct, scenes.silence.proxied
    against = []
    if proxied.first_byte_after is None or proxied.first_byte_after > _PROMPT:
        against.append("the first byte was late")
    if proxied.confirm_after is None:
        against.append("no confirm reached onmessage")
    if not proxied.pings:
        against.append("there was no ping")
    if not scenes.stalled:
        against.append(f"the metrics did not show that upstream was silent ({STALLED})")
    return Findings(
        (f"it was not silent ({direct.bytes} bytes)",) if direct.bytes else (),
        (*against, *_not_alive(proxied, scenes.interval)),
    )


def _first_event(scenes: Scenes) -> Findings:
    direct, proxied, before = scenes.event.direct, scenes.event.proxied, scenes.silence.proxied
    nothing = []
    if direct.messages:
        nothing.append("onmessage received the message")
    if direct.end is None:
        nothing.append("upstream did not end it after its first event")
    against = []
    if proxied.messages == before.messages:
        against.append("the message did not reach onmessage")
    if proxied.gaps == before.gaps:
        against.append("there was no notice of the gap after upstream's end")
    if proxied.messages < before.messages + 2:
        against.append("the second message did not reach onmessage")
    if not scenes.counted:
        against.append(f"the metrics did not count upstream's end after its first event ({COUNTED})")
    return Findings(tuple(nothing), (*against, *_not_alive(proxied, scenes.interval)))


def _restart(scenes: Scenes) -> Findings:
    direct, proxied, before = scenes.restart.direct, scenes.restart.proxied, scenes.event.proxied
    against = []
    if proxied.gaps == before.gaps:
        against.append("there was no notice of the gap after the restart")
    if proxied.messages == before.messages:
        against.append("the message after the restart did not reach onmessage")
    return Findings(
        ("the restart did not break it",) if direct.end is None else (),
        (*against, *_not_alive(proxied, scenes.interval)),
    )


def _not_alive(proxied: Figures, interval: float) -> list[str]:
    """Return the objections that apply in every scene: the stream has ended, or was silent for too long."""
    against = []
    if proxied.end is not None:
        against.append(f"it ended: {proxied.end}")
    if proxied.longest_silence > interval + _SLACK:
        against.append(f"it was silent for {duration(proxied.longest_silence)}")
    return against


# The short texts of the table.


def _silent(direct: Figures) -> str:
    return f"{direct.bytes or 'no'} bytes in {duration(direct.age)}"


def _kept(proxied: Figures) -> str:
    first = proxied.first_byte_after
    return f"{'no byte' if first is None else f'byte after {duration(first)}'}, {proxied.pings} pings"


def _unheard(direct: Figures) -> str:
    heard = "received" if direct.messages else "not received"
    return f"{heard}, {'still open' if direct.end is None else 'then closed'}"


def _broken(direct: Figures) -> str:
    return "still open" if direct.end is None else "broken off"


def _heard(proxied: Figures, before: Figures) -> str:
    announced = proxied.gap is not None and proxied.gaps > before.gaps
    gap = f"gap of {duration(proxied.gap.seconds)}" if announced and proxied.gap is not None else "no notice"
    return f"{gap}, {proxied.messages - before.messages} received"
