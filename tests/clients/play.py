"""Play one row of the matrix: its library directly at the scripted upstream and through the real proxy.

The library runs in a process of its own; so does the proxy, with every default but a short ping interval, an
early commit for the scenes that are about it, and a `max_age` for the one about that.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.install import installed
from tests.clients.matrix import Language, Row
from tests.clients.protocols import Protocol
from tests.clients.upstream import BORNE, ERRORS, KEEPALIVE, QUIET, Scene, Upstream
from tests.support.proxy_process import Metrics, running_proxy

__all__ = ["Played", "Seen", "play"]

SECONDS = 15  # a play that is not over then hangs
_ROOT = Path(__file__).parents[2]
_TOLD = (
    "Accept",
    "Cache-Control",
    "User-Agent",
    "X-Stainless-Lang",
    "anthropic-version",
    "x-goog-api-client",
)

CONFIG = f"""\
upstreams: {{up: {{url: URL}}}}
defaults: {{client: FAMILY, keepalive: {{interval: {KEEPALIVE * 1000:.0f}ms}}}}
routes:
  - {{name: late-401, match: {{path: /late-401/*}}, upstream: up, stream: EARLY}}
  - {{name: late-500, match: {{path: /late-500/*}}, upstream: up, stream: EARLY}}
  - {{name: aged, match: {{path: /aged/*}}, upstream: up, stream: {{max_age: 1s}}}}
  - {{name: all, match: {{path: /*}}, upstream: up, stream: {{}}}}
""".replace("EARLY", "{early_commit: {after: 200ms, methods: [GET, POST]}}")


@dataclass(slots=True)
class Seen:
    """What a library's user saw of one stream."""

    events: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    ended: bool = False

    @property
    def ending(self) -> str:
        """How it ended, in one word, or the class of the exception."""
        return str(self.error["kind"]) if self.error else "ends" if self.ended else "hangs"


@dataclass(slots=True)
class Played:
    """One row, played. `request` are the fields that tell what the client is; `pings` counts the proxy's."""

    row: Row
    direct: dict[Scene, Seen]
    proxied: dict[Scene, Seen]
    request: dict[str, str]
    families: list[str]
    pings: int


async def play(row: Row, directory: Path) -> Played:
    """Install the row's library and play it. Raises InstallError."""
    command = await asyncio.to_thread(installed, row)
    async with Upstream() as upstream, Upstream() as behind:
        family = "mcp" if row.protocol is Protocol.MCP_SSE else "auto"  # which its requests do not show
        config = CONFIG.replace("URL", behind.url).replace("FAMILY", family)
        with running_proxy(directory, config=config) as proxy:
            direct, proxied = await asyncio.gather(
                _see(row, command, upstream.url, directory, scenes_of(row, direct=True)),
                _see(row, command, proxy.url, directory, scenes_of(row, direct=False)),
            )
            metrics = await asyncio.to_thread(proxy.metrics)
        request = _recognised(upstream)
    pings = sum(value for (name, _), value in metrics.items() if name == "sse_proxy_pings_sent_total")
    return Played(row, direct, proxied, request, _families(metrics), int(pings))


def scenes_of(row: Row, *, direct: bool) -> list[Scene]:
    """The scenes of a row: without the proxy also those of what the client bears."""
    # An unfinished event at the end of a stream is none for who connects again, and no message of MCP.
    whole = row.reconnects or row.protocol in (Protocol.MCP, Protocol.MCP_SSE)
    quiet = [scene for scene in QUIET if not (whole and scene is Scene.TAIL)]
    if direct:
        return [*quiet, Scene.CUT, Scene.REFUSED, *BORNE]
    # An upstream that says 500 is asked again for as long as `give_up_after` for who connects again.
    return [scene for scene in (*quiet, *ERRORS) if not (row.reconnects and scene is Scene.LATE_500)]


async def _see(
    row: Row, command: list[str], url: str, directory: Path, scenes: Iterable[Scene]
) -> dict[Scene, Seen]:
    """Run the library's process once for all scenes; return what its user saw of each."""
    arguments = [f"{scene}={url}/{scene}/{row.protocol}" for scene in scenes]
    process = await asyncio.create_subprocess_exec(
        *command,
        *arguments,
        cwd=_ROOT if row.language is Language.BROWSER else directory,
        env={**os.environ, "PLAY_SECONDS": str(SECONDS), "NO_PROXY": "*"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), SECONDS * 2 + 90)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    seen = {scene: Seen() for scene in scenes}
    for line in output.decode().splitlines():
        name, kind, value = json.loads(line)
        _note(seen.get(name), kind, value, url)  # a StrEnum is found by its text
    if process.returncode:
        raise RuntimeError(f"{row.title} ended with {process.returncode}:\n{errors.decode()}")
    return seen


def _note(seen: Seen | None, kind: str, value: Any, url: str) -> None:
    if seen is None:
        return
    match kind:
        case "event":
            text = value if isinstance(value, str) else json.dumps(value)
            seen.events.append(text)
        case "warning":
            seen.warnings.append(re.sub(r"\d+", "0", str(value).replace(url, "")))
        case "error":
            seen.error = value
        case _:
            seen.ended = True


def _recognised(upstream: Upstream) -> dict[str, str]:
    request = upstream.requests[0]
    return {name: value for name in _TOLD if (value := request.header(name)) is not None}


def _families(metrics: Metrics) -> list[str]:
    """The families that the proxy has taken the client for."""
    return sorted(
        {
            dict(labels)["family"]
            for (name, labels), value in metrics.items()
            if name == "sse_proxy_streams_opened_total" and value and "family" in dict(labels)
        }
    )
