"""Read the small files that a configuration names: keys and certificates.

Reads only regular files and at most 64 KiB of them (1 MiB for a CA bundle), so that a pipe or a device cannot
block the check. No message quotes the content of a file.
"""

from __future__ import annotations

import stat
from pathlib import Path

from sse_keepalive_proxy.config.types.fields import Fault
from sse_keepalive_proxy.config.types.units import format_size

__all__ = ["content_of"]

_LARGEST_FILE = 64 << 10


def content_of(path: str, *, largest: int = _LARGEST_FILE) -> bytes | Fault:
    """Return the content of the regular file at `path`, at most `largest` bytes, or its fault."""
    try:
        kind = Path(path).stat().st_mode
        if stat.S_ISDIR(kind):
            return Fault("is a directory, not a file")
        if not stat.S_ISREG(kind):
            return Fault("is not a regular file", "copy it to a regular file")
        with Path(path).open("rb") as file:
            content = file.read(largest + 1)
    except FileNotFoundError:
        return Fault("there is no such file", "a relative path starts at the proxy's working directory")
    except PermissionError:
        return Fault("cannot be read: this user has no permission")
    except (OSError, ValueError) as error:
        return Fault(f"cannot be read: {getattr(error, 'strerror', None) or 'not a valid path'}")
    if len(content) > largest:
        return Fault(f"larger than {format_size(largest)}", "is this the right file?")
    return content
