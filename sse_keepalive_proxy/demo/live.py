"""The demo in the terminal: a table that is updated in place until the user stops it.

If the output is not a terminal, it writes one line for each change.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from typing import TextIO

from sse_keepalive_proxy.demo import DEFAULT_PORT, table
from sse_keepalive_proxy.demo.observer import Figures, Life
from sse_keepalive_proxy.demo.stage import Stage

__all__ = ["watch"]

_LOOK = 0.25  # seconds between two pictures


async def watch(stage: Stage, out: TextIO, ended: asyncio.Event) -> None:
    """Show `stage` on `out` until `ended` is set."""
    if stage.moved:
        out.write(f"port {DEFAULT_PORT} is in use: using another one\n")
    out.write(f"open {stage.proxy_url}/demo/\n")
    out.write(f"metrics {stage.admin_url}/metrics · end with Ctrl-C\n\n")
    out.flush()
    if out.isatty():
        await _picture(stage, out, ended)
    else:
        await _changes(stage, out, ended)


async def _picture(stage: Stage, out: TextIO, ended: asyncio.Event) -> None:
    up = ""
    while not ended.is_set():
        lines = [*table.lines(*stage.figures()), "", f"  {_remark(*stage.figures())}"]
        width = shutil.get_terminal_size().columns
        # A wrapped line would count as two lines. `K` clears the rest of a longer earlier line.
        out.write(up + "".join(f"{line[: width - 1]}\x1b[K\n" for line in lines))
        out.flush()
        up = f"\x1b[{len(lines)}F"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _LOOK)


async def _changes(stage: Stage, out: TextIO, ended: asyncio.Event) -> None:
    said: dict[str, str] = {}
    while not ended.is_set():
        for name, figures in zip(("direct", "through the proxy"), stage.figures(), strict=True):
            line = (
                f"{name}: {figures.life.value}, {figures.bytes} bytes, {figures.pings} pings, "
                f"{figures.events} events, onmessage received {figures.heard}, {figures.gaps} gaps announced"
            )
            if said.get(name) != line:
                said[name] = line
                out.write(f"{figures.age:.1f} s  {line}\n")
        out.flush()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _LOOK)


def _remark(direct: Figures, proxied: Figures) -> str:
    if proxied.life is Life.ENDED:
        return f"through the proxy: {proxied.end}: start over"
    if direct.life is Life.ENDED:
        return f"direct: dead, it never reconnects: {direct.end}"
    return "send a message on the page, or restart upstream on the page"
