"""Whether the way of a byte is compiled or interpreted.

Owns the list of the modules that every byte of a stream passes: `hatch_build.py` compiles these when the
package is built with `SSE_PROXY_COMPILE=1`, and nothing else (docs/design/decisions/0016-libraries.md).
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

__all__ = ["BUILD", "BYTE_PATH", "INTERPRETED", "interpreted", "word"]

BYTE_PATH = (
    "http/chunked",
    "http/exchange",
    "live/downstream",
    "live/relay",
    "net/poller",
    "net/transport",
    "stream/lifecycle",
    "stream/messages",
    "wire/block",
    "wire/framing",
)


def interpreted(package: Path) -> tuple[str, ...]:
    """Return the modules of the byte path that have no shared library in the folder `package`."""
    return tuple(
        module
        for module in BYTE_PATH
        if not any((package / f"{module}{suffix}").exists() for suffix in EXTENSION_SUFFIXES)
    )


def word(interpreted: tuple[str, ...]) -> str:
    """Return `compiled` when no module is interpreted, `interpreted` when all are, else `partly compiled`."""
    if not interpreted:
        return "compiled"
    return "interpreted" if len(interpreted) == len(BYTE_PATH) else "partly compiled"


INTERPRETED = interpreted(Path(__file__).parent)
"""What of the byte path is interpreted here."""

BUILD = word(INTERPRETED)
"""What `--version`, the metric `build_info`, the log line `ready` and the status page say of this package."""
