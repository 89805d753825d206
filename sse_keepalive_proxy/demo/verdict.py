"""Judge the figures of the scenes: is the stream healed? Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sse_keepalive_proxy.demo.observer import Figures
from sse_keepalive_proxy.demo.table import duration

__all__ = [
    "BRIDGED",
    "COUNTED",
    "MISSED",
    "SAID",
    "SCENES",
    "STALLED",
    "Findings",
    "Scene",
    "Scenes",
    "Senders",
    "Tabs",
    "judge",
    "table",
]

SCENES = ("silence", "first event", "upstream restart", "two tabs", "offline", "incident")
SAID = 2
"""The messages for the two tabs."""
MISSED = 2
"""The messages while a client is offline. Another one follows when it is back."""
STALLED = "sse_proxy_upstream_stalled_streams"
COUNTED = "sse_proxy_upstream_eof_after_first_event_total"
BRIDGED = "sse_proxy_bridge_events_total"

_PROMPT = 3.0  # seconds: the longest time for the first byte, on a busy machine
_SLACK = 1.0  # seconds: the 250 ms of behaviour.md#downstream-silence, and a busy machine
_WIDTHS = (18, 33)


@dataclass(frozen=True, slots=True)
class Scene:
    """Both streams at the end of a scene."""

    direct: Figures
    proxied: Figures


@dataclass(frozen=True, slots=True)
class Tabs:
    """Two tabs of one user. `openings`: how often a direct tab opened its stream while the other one had the
    place. `evicted`: how often this ended the other stream. `proxied`: both tabs through the proxy.
    """

    evicted: int
    openings: int
    proxied: tuple[Figures, Figures]


@dataclass(frozen=True, slots=True)
class Senders:
    """Users who send a message and wait for it to come back, `tries` on each side. `direct`, `proxied`: how
    many got it. An answer followed each message. `filled`: the messages and answers that the bridge
    delivered, by the metrics. `dropped`: those of them that upstream sent as well.
    """

    tries: int
    direct: int
    proxied: int
    filled: float
    dropped: float


@dataclass(frozen=True, slots=True)
class Scenes:
    """The scenes: silence; two messages with upstream's end between them; a restart and one message; two
    tabs; a client that is offline and comes back; senders, None without a nats-server.

    The direct stream of `restart` is a new one, and both of `offline` are those after the return. `stalled`,
    `counted`: whether the metrics showed upstream's silence and its end after the first event. `interval`:
    the keepalive interval in seconds.
    """

    silence: Scene
    event: Scene
    restart: Scene
    tabs: Tabs
    offline: Scene
    senders: Senders | None
    stalled: bool
    counted: bool
    interval: float


@dataclass(frozen=True, slots=True)
class Findings:
    """The objections in a scene: `direct` was not dead, `proxied` was not alive."""

    direct: tuple[str, ...]
    proxied: tuple[str, ...]


def judge(scenes: Scenes) -> tuple[Findings, ...]:
    """Return the findings of each of `SCENES` that was played. All are empty if the stream is healed."""
    found = (_silence(scenes), _first_event(scenes), _restart(scenes), _two_tabs(scenes), _offline(scenes))
    return found if scenes.senders is None else (*found, _incident(scenes.senders))


def table(scenes: Scenes) -> list[str]:
    """Return the scenes as a table: dead or not, alive or not, with the reason."""
    seen = [
        (_silent(scenes.silence.direct), _kept(scenes.silence.proxied)),
        (_unheard(scenes.event.direct), _heard(scenes.event.proxied, scenes.silence.proxied)),
        (_broken(scenes.restart.direct), _heard(scenes.restart.proxied, scenes.event.proxied)),
        (
            f"{scenes.tabs.evicted} of {scenes.tabs.openings} ended the other",
            " and ".join(str(tab.messages) for tab in scenes.tabs.proxied) + f" of {SAID} received",
        ),
        (
            f"{scenes.offline.direct.events} of {MISSED} missed received",
            f"{scenes.offline.proxied.messages} of {MISSED + 1} received",
        ),
    ]
    if (senders := scenes.senders) is not None:
        direct, proxied = (f"{got} of {senders.tries} confirmed" for got in (senders.direct, senders.proxied))
        seen.append((direct, proxied))
    rows = [("", "direct", "through the proxy")]
    for name, found, (direct, proxied) in zip(SCENES, judge(scenes), seen, strict=False):
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


def _two_tabs(scenes: Scenes) -> Findings:
    tabs = scenes.tabs
    against = []
    for name, tab in zip(("first", "second"), tabs.proxied, strict=True):
        if tab.messages != SAID:
            against.append(f"the {name} tab received {tab.messages} of {SAID} messages")
        against += [f"the {name} tab: {line}" for line in _not_alive(tab, scenes.interval)]
    return Findings(
        ("a tab did not take the other one's place",) if tabs.evicted < tabs.openings else (),
        tuple(against),
    )


def _offline(scenes: Scenes) -> Findings:
    direct, proxied = scenes.offline.direct, scenes.offline.proxied
    against = []
    if proxied.messages != MISSED + 1:
        against.append(f"the client received {proxied.messages} messages, not {MISSED + 1}")
    return Findings(
        ("the client received what it had missed",) if direct.events else (),
        (*against, *_not_alive(proxied, scenes.interval)),
    )


def _incident(senders: Senders) -> Findings:
    against = []
    if senders.proxied != senders.tries:
        against.append(f"{senders.proxied} of {senders.tries} senders got their message back")
    if (senders.filled, senders.dropped) != (2 * senders.tries, senders.tries):
        against.append(f"the metrics did not show it ({BRIDGED})")
    return Findings(
        (f"{senders.direct} senders got their message back",) if senders.direct else (),
        tuple(against),
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
