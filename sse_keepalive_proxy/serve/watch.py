"""Detect changed files by polling, without a task or a thread.

Polling follows symbolic links. So it detects a write into a file, a rename over it, and the swap of a
Kubernetes ConfigMap (`..data`) in the same way.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Watch"]

_Look = tuple[int, ...] | None
"""The values of `stat` that change with a file; None if it is missing or not a regular file."""


class Watch:
    """Files, and their contents when they were last recorded.

    A pipe or a device cannot be read twice, so it counts as missing.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._known: dict[Path, _Known] = {}
        self._seen: dict[Path, _Look] = {}
        self.follow(files)

    def follow(self, files: Iterable[Path]) -> None:
        """Watch `files` and no others from now on. Record the contents of the new ones."""
        self._known = {path: self._known.get(path) or _Known.of(path) for path in files}

    def take_note(self) -> None:
        """Record the contents of all files now."""
        self._known = {path: _Known.of(path) for path in self._known}

    @property
    def contents(self) -> dict[Path, bytes | None]:
        """The recorded contents of each file, as a digest, or None if it could not be read."""
        return {path: known.content for path, known in self._known.items()}

    def poll(self) -> bool:
        """Return whether contents have changed, and record the new ones. A change counts only if it is the
        same in two polls, so that a half-written file is not read.
        """
        before, self._seen = self._seen, {path: _look(path) for path in self._known}
        if self._seen != before or all(known.look == self._seen[path] for path, known in self._known.items()):
            return False
        found = {path: _Known.of(path) for path in self._known}
        if any(_look(path) != look for path, look in self._seen.items()):
            return False  # it changed while it was read
        known, self._known = self._known, found
        return any(known[path].content != now.content for path, now in found.items())


@dataclass(frozen=True, slots=True)
class _Known:
    """A file's `stat` and contents. They are read in this order, so that no change is missed."""

    look: _Look
    content: bytes | None

    @classmethod
    def of(cls, path: Path) -> _Known:
        look = _look(path)
        return cls(look, None if look is None else _digest(path))


def _look(path: Path) -> _Look:
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    # The change time too: a copy may keep size and modification time, and a file may become readable.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(path: Path) -> bytes | None:
    """Return a digest of a file, or None if it cannot be read."""
    try:
        # Do not block if the file has become a pipe since `stat`.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None
