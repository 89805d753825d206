"""The scenes of `demo --once`: silence, the first event, a restart of upstream, two tabs, a client offline,
and the incident, if there is a nats-server.

Each scene shows the same directly and through the proxy. The last lines are the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from sse_keepalive_proxy.demo import table, verdict
from sse_keepalive_proxy.demo.incident import TRIES, incident
from sse_keepalive_proxy.demo.nats_server import Missing
from sse_keepalive_proxy.demo.observer import Figures, Observer
from sse_keepalive_proxy.demo.stage import DOWN, ROUTE, SENDER, Stage, settings
from sse_keepalive_proxy.demo.verdict import (
    BRIDGED,
    COUNTED,
    MISSED,
    SAID,
    SCENES,
    STALLED,
    Scene,
    Scenes,
    Senders,
    Tabs,
)

__all__ = ["tell"]

_WATCH = 8.0  # seconds: several keepalive intervals, and longer than `stall.after`
_ARRIVES = 5.0  # seconds for a message or an end to arrive
_RETURNS = 10.0  # seconds for the notice of a gap
_OPENINGS = 4  # of tabs that take the place of the other one
_LOOK = 0.2  # seconds between two looks at the metrics

Note = Callable[[str], None]


async def tell(
    stage: Stage, say: Callable[[str], None], *, watch: float = _WATCH, tries: int = TRIES
) -> bool:
    """Run the scenes, for `watch` and about ten more seconds. Return whether the stream is healed."""
    clock = asyncio.get_running_loop().time
    began_at = clock()

    def note(line: str) -> None:
        say(f"{clock() - began_at:6.1f} s  {line}")

    say("A broken notify-server of a chat, and two members: one reads directly, one through this proxy.")
    say(f"\n1. {SCENES[0]}")
    silence, stalled = await _silence(stage, note, watch)
    say(f"\n2. {SCENES[1]}")
    event, counted = await _first_event(stage, note)
    say(f"\n3. {SCENES[2]}")
    restart = await _restart(stage, note)
    say(f"\n4. {SCENES[3]}")
    tabs = await _two_tabs(stage, note)
    say(f"\n5. {SCENES[4]}")
    offline = await _offline(stage, note)
    say(f"\n6. {SCENES[5]}")
    senders = await _incident(note, tries)

    scenes = Scenes(silence, event, restart, tabs, offline, senders, stalled, counted, _interval())
    say("")
    for line in verdict.table(scenes):
        say(line)
    say("")
    return _conclude(scenes, say)


async def _silence(stage: Stage, note: Note, watch: float) -> tuple[Scene, bool]:
    """Run the scene without messages. Return it, and whether the metrics showed the silence."""
    clock = asyncio.get_running_loop().time
    note("both streams are open, and no message is sent")
    ends_at, stalled = clock() + watch, False
    while clock() < ends_at:
        await asyncio.sleep(min(_LOOK, max(ends_at - clock(), 0)))
        if not stalled and await _metric(stage.admin_url, STALLED):
            stalled = True
            note(f'upstream is silent, and the metrics show it: {STALLED}{{route="{ROUTE}"}} 1')
            note("the proxy opens upstream again, while its client stays connected")
    await stage.connected()
    scene = Scene(*stage.figures())
    if not scene.direct.bytes:
        note(f"direct: no byte in {table.duration(scene.direct.age)}")
    proxied = scene.proxied
    note(f"through the proxy: onmessage received {proxied.heard}, and there were {proxied.pings} pings")
    return scene, stalled


async def _first_event(stage: Stage, note: Note) -> tuple[Scene, bool]:
    """Run the scene with two messages and upstream's end after the first.

    Return it, and whether the metrics counted the end.
    """
    before = stage.proxied.figures()
    await _message(stage, note, "Hello, are you there?")
    await _ended(stage, stage.direct)
    direct = stage.direct.figures()
    if direct.events and not direct.heard:
        note("direct: the event is named Generic, so onmessage does not receive it")
    if direct.end is not None:
        note("direct: upstream ends the stream after one event (its own bug); the client never reconnects")
    await _gap(stage, note, before)
    before = stage.proxied.figures()
    await _message(stage, note, "Still there?")
    await _gap(stage, note, before)  # upstream has ended this one, too
    counted = bool(await _metric(stage.admin_url, COUNTED))
    if counted:
        note(f'the metrics count such ends: {COUNTED}{{route="{ROUTE}"}}')
    return Scene(*stage.figures()), counted


async def _restart(stage: Stage, note: Note) -> Scene:
    """Run the scene with a restart of upstream and a message after it."""
    await stage.direct_anew()
    note("the page of the direct client is loaded again: its stream is open")
    before = stage.proxied.figures()
    note(f"upstream stops, and starts again {table.duration(DOWN)} later")
    await stage.restart_upstream()
    await _ended(stage, stage.direct)
    if (end := stage.direct.figures().end) is not None:
        note(f"upstream is back. direct: {end}; the client never reconnects")
    await _gap(stage, note, before)
    await _message(stage, note, "And now?")
    return Scene(*stage.figures())


async def _two_tabs(stage: Stage, note: Note) -> Tabs:
    """Run the scene with two tabs of a user, whose place upstream gives to the newest stream."""
    note("a user opens a second tab; upstream has one place for each user")
    _, token = stage.member()
    older, newer = [await stage.open(stage.direct_url, token) for _ in range(2)]
    evicted = 0
    while evicted < _OPENINGS and await _ended(stage, older):
        evicted += 1
        older, newer = newer, await stage.open(stage.direct_url, token)
    note(f"direct: each tab takes the other one's place: {evicted} streams ended, and so on for ever")
    user, token = stage.member()
    tabs = [await stage.open(stage.proxy_url, token) for _ in range(2)]
    for number in range(SAID):
        await stage.listening(user, _ARRIVES)
        note(f"user {SENDER} writes: Do both tabs hear this? ({number + 1})")
        stage.send(f"Do both tabs hear this? ({number + 1})")
        await _received(stage, tabs, number + 1)
    first, second = (tab.figures() for tab in tabs)
    note(f"through the proxy: the tabs share one stream, and receive {first.messages} and {second.messages}")
    return Tabs(evicted, _OPENINGS, (first, second))


async def _offline(stage: Stage, note: Note) -> Scene:
    """Run the scene with two clients that leave, and come back after `MISSED` messages."""
    (_, bare), (user, token) = stage.member(), stage.member()
    direct = await stage.open(stage.direct_url, bare)
    proxied = await stage.open(stage.proxy_url, token)
    await stage.listening(user, _ARRIVES)
    stage.send("See you later!")
    await _received(stage, [proxied], 1)
    for client in (direct, proxied):
        client.close()
    note(f"both clients leave, and user {SENDER} writes {MISSED} messages")
    for number in range(MISSED):
        await stage.listening(user, _ARRIVES)
        stage.send(f"You are away ({number + 1})")
    await stage.listening(user, _ARRIVES)
    direct = await stage.open(stage.direct_url, bare)
    proxied = await stage.open(stage.proxy_url, token, proxied.last_id)
    await _received(stage, [proxied], MISSED)
    missed = direct.figures()
    note(f"direct: the client is back, and has received {missed.events} of them: the server stores nothing")
    stage.send("You are back!")
    await _received(stage, [proxied], MISSED + 1)
    figures = proxied.figures()
    note(f"through the proxy: the client names its last id, and has {figures.messages} of {MISSED + 1}")
    return Scene(missed, figures)


async def _incident(note: Note, tries: int) -> Senders | None:
    """Run the scene with `tries` senders directly, and as many through the proxy. Return None if there is no
    nats-server.
    """
    try:
        async with incident() as parts:
            note(f"a real nats-server runs. {tries} users sign in, open the stream, and send a message")
            direct = await parts.confirmed(parts.direct_url, tries)
            note(f"direct: {direct} of {tries} get their own message back; the others wait for ever")
            proxied = await parts.confirmed(parts.proxy_url, tries)
            note(f"through the proxy: {proxied} of {tries} get it back, from NATS")
            filled, dropped = await _bridged(parts.admin_url, tries)
    except Missing as reason:
        note(f"this scene is not played: {reason}")
        return None
    note(f'the metrics show both: {BRIDGED}{{outcome="filled"}} {filled:.0f}, messages and answers')
    note(f'{BRIDGED}{{outcome="dropped"}} {dropped:.0f}: upstream has delivered the answers only')
    return Senders(tries, direct, proxied, filled, dropped)


async def _bridged(admin_url: str, tries: int) -> tuple[float, float]:
    """Return how many messages the bridge has delivered, and how many of them upstream has sent as well."""
    dropped = 0.0
    for _ in range(round(_ARRIVES / _LOOK)):
        dropped = await _metric(admin_url, BRIDGED, outcome="dropped")
        if dropped >= tries:
            break
        await asyncio.sleep(_LOOK)
    return await _metric(admin_url, BRIDGED, outcome="filled"), dropped


async def _ended(stage: Stage, client: Observer) -> bool:
    """Wait for the end of a stream. Return whether it came."""
    return await stage.until(lambda: client.figures().end is not None, _ARRIVES)


async def _received(stage: Stage, clients: Sequence[Observer], count: int) -> None:
    """Wait until each client has received so many messages."""
    await stage.until(lambda: all(each.figures().messages >= count for each in clients), _ARRIVES)


async def _message(stage: Stage, note: Note, content: str) -> None:
    """Send a message, and wait until the proxied client has received it or its stream has ended."""
    before, sent_at = stage.proxied.figures(), asyncio.get_running_loop().time()
    note(f"user {SENDER} writes: {content}")
    stage.send(content)
    await stage.until(lambda: _more(stage.proxied.figures().messages, before.messages, stage), _ARRIVES)
    if stage.proxied.figures().messages > before.messages:
        took = asyncio.get_running_loop().time() - sent_at
        note(f"through the proxy: onmessage receives it {table.duration(took)} later")


async def _gap(stage: Stage, note: Note, before: Figures) -> None:
    """Wait until the proxied client gets the notice of a gap, or its stream has ended."""
    await stage.until(lambda: _more(stage.proxied.figures().gaps, before.gaps, stage), _RETURNS)
    figures = stage.proxied.figures()
    if figures.gap is not None and figures.gaps > before.gaps:
        gap = table.duration(figures.gap.seconds)
        note(f"through the proxy: the stream goes on, with a notice of a gap of {gap}")


def _more(now: int, before: int, stage: Stage) -> bool:
    """Whether a count has grown, or cannot grow any more."""
    return now > before or stage.proxied.figures().end is not None


def _conclude(scenes: Scenes, say: Callable[[str], None]) -> bool:
    judged = verdict.judge(scenes)
    lines = [
        f"  - {scene}, {side}: {line}"
        for scene, found in zip(SCENES, judged, strict=False)
        for side, against in (("direct", found.direct), ("through the proxy", found.proxied))
        for line in against
    ]
    if lines:
        say("not healed:")
        for line in lines:
            say(line)
        return False
    say(f"healed: {len(judged)} times dead directly and alive through the proxy.")
    return True


def _interval() -> float:
    """Return the keepalive interval of the demo's configuration."""
    for route in settings().routes:
        if route.stream is not None and route.stream.keepalive is not None:
            return route.stream.keepalive.interval
    raise LookupError("demo.yaml has no keepalive")


async def _metric(admin_url: str, name: str, **labels: str) -> float:
    """One sample of the stream route, from /metrics of an admin listener."""
    async with aiohttp.ClientSession() as session, session.get(f"{admin_url}/metrics") as response:
        text = await response.text()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == {"route": ROUTE, **labels}:
                return float(sample.value)
    return 0.0
