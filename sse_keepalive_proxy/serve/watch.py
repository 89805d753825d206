"""Whether files have changed, found out by looking: once a poll, in place, without a task or a thread.

Looking follows symbolic links, so that the swap of a Kubernetes ConfigMap (`..data`), a rename over the file
and a write into it are the same thing here: something else is there now.
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
"""What `stat` says of a file that can change under a poll; None for what is missing or no ordinary file."""


class Watch:
    """Files, and what was in them when they were last taken note of.

    A pipe or a device is nothing that could be looked into twice: to a watch it is as good as missing.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._known: dict[Path, _Known] = {}
        self._seen: dict[Path, _Look] = {}
        self.follow(files)

    def follow(self, files: Iterable[Path]) -> None:
        """Watch `files` and no others from now on. What is in those that are new here is known."""
        self._known = {path: self._known.get(path) or _Known.of(path) for path in files}

    def take_note(self) -> None:
        """What is in the files now is known."""
        self._known = {path: _Known.of(path) for path in self._known}

    @property
    def contents(self) -> dict[Path, bytes | None]:
        """What is known to be in each file, as a digest; None for what cannot be read."""
        return {path: known.content for path, known in self._known.items()}

    def poll(self) -> bool:
        """Whether something in the files is new, and the same as a poll ago: what is half written is not
        looked into. What is new is known from then on.
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
    """What a file looked like, and then what was in it: in this order, so that no change is missed."""

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
    """What is in a file, short; None when it cannot be read."""
    try:
        # Never waits, should it have become a pipe since it was looked at.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None
