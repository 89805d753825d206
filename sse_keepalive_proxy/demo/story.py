"""The story of `demo --once`: two streams are watched, one message is sent, and a verdict is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from sse_keepalive_proxy.demo import table
from sse_keepalive_proxy.demo.observer import Figures
from sse_keepalive_proxy.demo.stage import ROUTE, SENDER, Stage, settings

__all__ = ["Told", "shortcomings", "tell"]

_WATCH = 9.0  # seconds: several keepalive intervals, and longer than `stall.after`
_PROMPT = 1.0  # seconds in which a first byte came at once
_SLACK = 0.5  # seconds: 250 ms of the promise, and a busy machine
_ARRIVES = 5.0  # seconds for a message to come through
_ENDS = 1.0  # seconds for upstream's end to come through
_LOOK = 0.2  # seconds between two looks at the metrics
_STALLED = "sse_proxy_upstream_stalled_streams"
_COUNTED = "sse_proxy_upstream_eof_after_first_event_total"


@dataclass(frozen=True, slots=True)
class Told:
    """What was seen. `direct` and `proxied` are from before the message, `after` is the proxied stream when
    it had come or had not; `interval` is the keepalive's, in seconds.
    """

    direct: Figures
    proxied: Figures
    after: Figures
    stalled: bool
    interval: float


def shortcomings(told: Told) -> list[str]:
    """Why the stream is not healed; nothing when it is."""
    direct, proxied = told.direct, told.proxied
    found = []
    if direct.bytes:
        found.append(f"the direct stream was not silent ({direct.bytes} bytes): there was nothing to heal")
    if proxied.first_byte_after is None or proxied.first_byte_after > _PROMPT:
        found.append("through the proxy no byte came at once")
    if proxied.confirm_after is None:
        found.append("through the proxy no confirm came that onmessage hears")
    if not proxied.pings:
        found.append("through the proxy no ping came")
    if proxied.longest_silence > told.interval + _SLACK:
        found.append(f"through the proxy it was silent for {table.duration(proxied.longest_silence)}")
    if told.after.message_after is None:
        found.append("through the proxy the message did not reach onmessage")
    if not told.stalled:
        found.append(f"the metrics did not show that upstream was silent ({_STALLED})")
    return found


async def tell(stage: Stage, say: Callable[[str], None], *, watch: float = _WATCH) -> bool:
    """Run the story to its end, about `watch` seconds; returns whether the stream is healed."""
    clock = asyncio.get_running_loop().time
    began_at = clock()

    def note(line: str) -> None:
        say(f"{clock() - began_at:6.1f} s  {line}")

    say("A notify-server gone silent; two members of a chat read it, one directly, one through this proxy.")
    say("")
    note("both streams are open; nobody writes")
    stalled = False
    while clock() < began_at + watch:
        await asyncio.sleep(min(_LOOK, max(began_at + watch - clock(), 0)))
        if not stalled and await _metric(stage, _STALLED):
            stalled = True
            note(f'upstream is silent, and the metrics say so: {_STALLED}{{route="{ROUTE}"}} 1')
    direct, proxied = stage.figures()

    note(f"user {SENDER} sends a message to the chat")
    sent_at = clock()
    stage.send("Hello, is anybody there?")
    await stage.until(lambda: _answered(stage.proxied.figures()), _ARRIVES)
    after = stage.proxied.figures()
    if after.message_after is not None:
        note(f"through the proxy onmessage hears it, {table.duration(clock() - sent_at)} later")
    await stage.until(lambda: all(figures.end for figures in stage.figures()), _ENDS)
    last_direct, last_proxied = stage.figures()
    if last_direct.events and not last_direct.heard:
        note("directly it comes as an event named Generic, which onmessage does not hear")
    if last_direct.end:
        both = ", so both end here" if last_proxied.end else ""
        note(f"upstream closes a stream after its first event (its own bug){both}")
    if await _metric(stage, _COUNTED):
        note(f'the metrics count that, too: {_COUNTED}{{route="{ROUTE}"}} 1')

    say("")
    for line in table.lines(last_direct, last_proxied):
        say(line)
    say("")
    told = Told(direct, proxied, after, stalled, _interval())
    return _verdict(told, say)


def _verdict(told: Told, say: Callable[[str], None]) -> bool:
    found = shortcomings(told)
    if found:
        say("not healed:")
        for line in found:
            say(f"  - {line}")
        return False
    direct, proxied = told.direct, told.proxied
    say(
        f"healed. Direct: no byte in {table.duration(direct.age)}, and the event unheard. Through the proxy: "
        f"first byte after {table.duration(proxied.first_byte_after or 0)}, the confirm, "
        f"{proxied.pings} pings, and the event heard."
    )
    return True


def _answered(figures: Figures) -> bool:
    """Whether the message was heard, or never will be."""
    return figures.message_after is not None or figures.end is not None


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
