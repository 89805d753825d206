"""Whether the modules that cost most are compiled or interpreted.

Owns their list: every byte of a stream passes them, or every opening does. `hatch_build.py` compiles these
when the package is built with `SSE_PROXY_COMPILE=1`, and nothing else
(docs/design/decisions/0016-libraries.md).
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

__all__ = ["BUILD", "COMPILED", "INTERPRETED", "interpreted", "word"]

COMPILED = (
    "gateway/forwarded",
    "gateway/stream_request",
    "gateway/upstream_request",
    "http/chunked",
    "http/exchange",
    "http/head",
    "http/headers",
    "http/request",
    "http/response",
    "http/response_head",
    "live/downstream",
    "live/group",
    "live/membership",
    "live/relay",
    "live/source",
    "live/stream",
    "net/poller",
    "net/timers",
    "net/transport",
    "observe/registry",
    "observe/route_metrics",
    "stream/lifecycle",
    "stream/messages",
    "wire/block",
    "wire/framing",
)


def interpreted(package: Path) -> tuple[str, ...]:
    """Return the modules of `COMPILED` that have no shared library in the folder `package`."""
    return tuple(
        module
        for module in COMPILED
        if not any((package / f"{module}{suffix}").exists() for suffix in EXTENSION_SUFFIXES)
    )


def word(interpreted: tuple[str, ...]) -> str:
    """Return `compiled` when no module is interpreted, `interpreted` when all are, else `partly compiled`."""
    if not interpreted:
        return "compiled"
    return "interpreted" if len(interpreted) == len(COMPILED) else "partly compiled"


INTERPRETED = interpreted(Path(__file__).parent)
"""What of `COMPILED` is interpreted here."""

BUILD = word(INTERPRETED)
"""What `--version`, the metric `build_info`, the log line `ready` and the status page say of this package."""
