"""The story of `demo --once` in three scenes: silence, the first event, a restart of upstream.

Each is told of two streams, one read directly and one through the proxy; a verdict ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from sse_keepalive_proxy.demo import table, verdict
from sse_keepalive_proxy.demo.observer import Figures
from sse_keepalive_proxy.demo.stage import DOWN, ROUTE, SENDER, Stage, settings
from sse_keepalive_proxy.demo.verdict import COUNTED, SCENES, STALLED, Scene, Told

__all__ = ["tell"]

_WATCH = 8.0  # seconds: several keepalive intervals, and longer than `stall.after`
_ARRIVES = 5.0  # seconds for a message, or an end, to come through
_RETURNS = 10.0  # seconds for a gap to be told
_LOOK = 0.2  # seconds between two looks at the metrics

Note = Callable[[str], None]


async def tell(stage: Stage, say: Callable[[str], None], *, watch: float = _WATCH) -> bool:
    """Run the story to its end, `watch` and about four seconds; returns whether the stream is healed."""
    clock = asyncio.get_running_loop().time
    began_at = clock()

    def note(line: str) -> None:
        say(f"{clock() - began_at:6.1f} s  {line}")

    say("A chat's notify-server gone wrong, and two members: one reads directly, one through this proxy.")
    say(f"\n1. {SCENES[0]}")
    silence, stalled = await _silence(stage, note, watch)
    say(f"\n2. {SCENES[1]}")
    event, counted = await _first_event(stage, note)
    say(f"\n3. {SCENES[2]}")
    restart = await _restart(stage, note)

    told = Told(silence, event, restart, stalled, counted, _interval())
    say("")
    for line in verdict.table(told):
        say(line)
    say("")
    return _conclude(told, say)


async def _silence(stage: Stage, note: Note, watch: float) -> tuple[Scene, bool]:
    """Nobody writes. Also whether the metrics showed it."""
    clock = asyncio.get_running_loop().time
    note("both streams are open; nobody writes")
    ends_at, stalled = clock() + watch, False
    while clock() < ends_at:
        await asyncio.sleep(min(_LOOK, max(ends_at - clock(), 0)))
        if not stalled and await _metric(stage, STALLED):
            stalled = True
            note(f'upstream is silent, and the metrics say so: {STALLED}{{route="{ROUTE}"}} 1')
            note("the proxy drops it and opens another one, behind its client")
    await stage.connected()
    scene = Scene(*stage.figures())
    if not scene.direct.bytes:
        note(f"directly not one byte has come in {table.duration(scene.direct.age)}")
    note(f"through the proxy: onmessage heard {scene.proxied.heard}, and {scene.proxied.pings} pings came")
    return scene, stalled


async def _first_event(stage: Stage, note: Note) -> tuple[Scene, bool]:
    """Two messages, and upstream's end behind the first. Also whether the metrics counted that."""
    before = stage.proxied.figures()
    await _message(stage, note, "Hello, is anybody there?")
    await stage.until(lambda: stage.direct.figures().end is not None, _ARRIVES)
    direct = stage.direct.figures()
    if direct.events and not direct.heard:
        note("directly it comes as an event named Generic, which onmessage does not hear")
    if direct.end is not None:
        note("and upstream ends a stream after its first event (its own bug): the client is dead for good")
    await _gap(stage, note, before)
    before = stage.proxied.figures()
    await _message(stage, note, "Still there?")
    await _gap(stage, note, before)  # upstream has ended this one, too
    counted = bool(await _metric(stage, COUNTED))
    if counted:
        note(f'the metrics count such ends: {COUNTED}{{route="{ROUTE}"}}')
    return Scene(*stage.figures()), counted


async def _restart(stage: Stage, note: Note) -> Scene:
    """Upstream goes away and comes back; then a message."""
    await stage.direct_anew()
    note("the direct client loads its page again: its stream is open")
    before = stage.proxied.figures()
    note(f"upstream is stopped, to be there again {table.duration(DOWN)} later")
    await stage.restart_upstream()
    await stage.until(lambda: stage.direct.figures().end is not None, _ARRIVES)
    if (end := stage.direct.figures().end) is not None:
        note(f"it is back. Directly: {end}, dead for good")
    await _gap(stage, note, before)
    await _message(stage, note, "And now?")
    return Scene(*stage.figures())


async def _message(stage: Stage, note: Note, content: str) -> None:
    """Send one, and wait until the proxied client has heard it or never will."""
    before, sent_at = stage.proxied.figures(), asyncio.get_running_loop().time()
    note(f"user {SENDER} writes: {content}")
    stage.send(content)
    await stage.until(lambda: _more(stage.proxied.figures().messages, before.messages, stage), _ARRIVES)
    if stage.proxied.figures().messages > before.messages:
        took = asyncio.get_running_loop().time() - sent_at
        note(f"through the proxy onmessage hears it, {table.duration(took)} later")


async def _gap(stage: Stage, note: Note, before: Figures) -> None:
    """Wait until the proxied client is told of a gap, or never will be."""
    await stage.until(lambda: _more(stage.proxied.figures().gaps, before.gaps, stage), _RETURNS)
    figures = stage.proxied.figures()
    if figures.gap is not None and figures.gaps > before.gaps:
        gap = table.duration(figures.gap.seconds)
        note(f"through the proxy the stream lives on; its client is told of a gap of {gap}")


def _more(now: int, before: int, stage: Stage) -> bool:
    """Whether a count has grown, or never will."""
    return now > before or stage.proxied.figures().end is not None


def _conclude(told: Told, say: Callable[[str], None]) -> bool:
    lines = [
        f"  - {scene}, {side}: {line}"
        for scene, found in zip(SCENES, verdict.judge(told), strict=True)
        for side, against in (("direct", found.direct), ("through the proxy", found.proxied))
        for line in against
    ]
    if lines:
        say("not healed:")
        for line in lines:
            say(line)
        return False
    say(f"healed: {len(SCENES)} times dead directly, alive through the proxy.")
    return True


def _interval() -> float:
    """The keepalive interval of the demo's configuration."""
    for route in settings().routes:
        if route.stream is not None and route.stream.keepalive is not None:
            return route.stream.keepalive.interval
    raise LookupError("demo.yaml has no keepalive")


async def _metric(stage: Stage, name: str) -> float:
    """One sample of the stream route, from /metrics of the admin listener."""
    async with aiohttp.ClientSession() as session, session.get(f"{stage.admin_url}/metrics") as response:
        text = await response.text()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels.get("route") == ROUTE:
                return float(sample.value)
    return 0.0
