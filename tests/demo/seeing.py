"""Figures of a silent stream and of a healed one."""

from __future__ import annotations

from sse_keepalive_proxy.demo.observer import Figures, Life

__all__ = ["HEALED", "SILENT"]

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
    pings=0,
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
    pings=4,
    silence=0.9,
    longest_silence=2.003,
    end=None,
    arrivals=(),
)
