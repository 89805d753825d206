"""Reads the small files that a configuration names: keys and certificates.

Owns the bounds of that reading: ordinary files only and at most 64 KiB of them (1 MiB for a bundle of
authorities), so that neither a pipe nor a device holds the check up. No message quotes what is in a file.
"""

from __future__ import annotations

import stat
from pathlib import Path

from sse_keepalive_proxy.config.types.fields import Fault
from sse_keepalive_proxy.config.types.units import format_size

__all__ = ["content_of"]

_LARGEST_FILE = 64 << 10


def content_of(path: str, *, largest: int = _LARGEST_FILE) -> bytes | Fault:
    """Return what is in the ordinary file at `path`, or why it cannot be had. More than `largest` bytes are a
    fault.
    """
    try:
        kind = Path(path).stat().st_mode
        if stat.S_ISDIR(kind):
            return Fault("is a directory, not a file")
        if not stat.S_ISREG(kind):
            return Fault("is not an ordinary file", "copy it to one")
        with Path(path).open("rb") as file:
            content = file.read(largest + 1)
    except FileNotFoundError:
        return Fault("there is no such file", "a relative path counts from where the proxy is started")
    except PermissionError:
        return Fault("may not be read by this user")
    except (OSError, ValueError) as error:
        return Fault(f"cannot be read: {getattr(error, 'strerror', None) or 'not a usable path'}")
    if len(content) > largest:
        return Fault(f"larger than {format_size(largest)}", "is this the right file?")
    return content
