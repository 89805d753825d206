"""Figures of a silent stream and of a healed one, and of the story in which they are seen."""

from __future__ import annotations

from dataclasses import replace

from sse_keepalive_proxy.demo.observer import Figures, Gap, Life
from sse_keepalive_proxy.demo.verdict import MISSED, SAID, Scene, Scenes, Senders, Tabs

__all__ = ["HEALED", "SILENT", "STORY", "TAB"]

SILENT = Figures(
    life=Life.SILENT,
    age=9.0,
    headers_after=0.002,
    first_byte_after=None,
    confirm_after=None,
    message_after=None,
    bytes=0,
    events=0,
    heard=0,
    messages=0,
    pings=0,
    gaps=0,
    gap=None,
    silence=9.0,
    longest_silence=9.0,
    end=None,
    arrivals=(),
)
HEALED = Figures(
    life=Life.ALIVE,
    age=9.0,
    headers_after=0.003,
    first_byte_after=0.004,
    confirm_after=0.004,
    message_after=None,
    bytes=137,
    events=1,
    heard=1,
    messages=0,
    pings=4,
    gaps=1,
    gap=Gap("stalled", 0.12),
    silence=0.9,
    longest_silence=2.003,
    end=None,
    arrivals=(),
)

TAB = replace(HEALED, messages=SAID)

STORY = Scenes(
    silence=Scene(SILENT, HEALED),
    event=Scene(
        replace(SILENT, life=Life.ENDED, events=1, bytes=8, end="closed by upstream after its first event"),
        replace(HEALED, messages=2, gaps=3, gap=Gap("upstream_end", 0.087)),
    ),
    restart=Scene(
        replace(SILENT, life=Life.ENDED, end="broken"),
        replace(HEALED, messages=3, gaps=4, gap=Gap("upstream_reset", 2.61)),
    ),
    tabs=Tabs(evicted=4, openings=4, proxied=(TAB, TAB)),
    offline=Scene(SILENT, replace(HEALED, messages=MISSED + 1)),
    senders=Senders(tries=100, direct=0, proxied=100, filled=200.0, dropped=100.0),
    stalled=True,
    counted=True,
    interval=2.0,
)
