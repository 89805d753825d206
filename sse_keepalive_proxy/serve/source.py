"""The configuration file, read in a process of its own so that the event loop goes on.

Reading many routes takes seconds of Python (10,000: 4 s). A thread would hold the interpreter's lock, and
every call of the loop would wait for it (decision 7). So a child reads the file. It sends the finished
configuration, or its problems, over a pipe, in pieces that are quickly unpacked.

Owns the child and its pipe. What is read, and what is wrong with it, is `config`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import stat
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from sse_keepalive_proxy.config import Loaded, Overrides, load
from sse_keepalive_proxy.errors import ConfigurationError, Problem
from sse_keepalive_proxy.observe import log
from sse_keepalive_proxy.serve.watch import Watch

__all__ = ["Source", "load_in_child"]

logger = logging.getLogger("sse_keepalive_proxy.config")

_PIECE = 100
"""Routes, warnings or problems that are unpacked in one turn of the event loop: about 4 ms."""

_SIZE = 8
"""Bytes in front of each piece, which say how many follow."""

_NICENESS = 5
"""The child gives way to the proxy where they share a core."""


class Source:
    """The file at `path`, read with the flags and the environment of the start.

    Made before the file is read for the first time, it misses no change: `watch` knows what is in it now.
    """

    def __init__(self, path: Path, *, environ: Mapping[str, str], overrides: Overrides) -> None:
        self.path = path
        self.environ, self.overrides = dict(environ), overrides
        self.watch = Watch([path])

    def load(self) -> Loaded:
        """What it says now. Takes its time. Raises `ConfigurationError`."""
        if _is_pipe(self.path):  # it has said what it had to say, and would be waited for
            hint = "start with a file that can be read again"
            raise ConfigurationError((Problem("is no ordinary file", hint=hint, file=str(self.path)),))
        return load(self.path, environ=self.environ, overrides=self.overrides)


async def load_in_child(source: Source, log_format: str) -> Loaded:
    """What `source` says now. `log_format`: how the child writes, should it fail.

    Raises `ConfigurationError`, also when the child cannot be started or ends early. Cancelled, it ends the
    child.
    """
    file = str(source.path)
    try:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", __name__, log_format),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # a signal for the proxy's process group is not for the child
        )
    except OSError as error:
        raise _unread(file, f"no process can be started for it: {error.strerror}") from error
    if child.stdin is None or child.stdout is None:
        raise AssertionError("both are pipes")
    found: defaultdict[str, list[Any]] = defaultdict(list)
    try:
        with contextlib.suppress(OSError, RuntimeError):  # it has ended already, as its status says
            child.stdin.write(pickle.dumps((source.path, source.environ, source.overrides)))
            child.stdin.close()
        async for kind, values in _pieces(child.stdout):
            found[kind] += values
    finally:
        if not child.stdout.at_eof():
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        status = await child.wait()
    if status:
        raise _unread(file, f"the process that reads it has ended early, with status {status}")
    if found["problem"]:
        raise ConfigurationError(tuple(found["problem"]))
    (settings,) = found["settings"]
    return Loaded(settings.model_copy(update={"routes": tuple(found["route"])}), tuple(found["warning"]))


async def _pieces(pipe: asyncio.StreamReader) -> AsyncIterator[tuple[str, Sequence[Any]]]:
    """What the child sends, until it ends."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            size = int.from_bytes(await pipe.readexactly(_SIZE), "big")
            yield pickle.loads(await pipe.readexactly(size))  # noqa: S301 (our own child wrote it)
            await asyncio.sleep(0)  # what is there already is read without a turn of the loop


def _unread(file: str, why: str) -> ConfigurationError:
    return ConfigurationError((Problem(f"cannot be read: {why}", file=file),))


def _is_pipe(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False  # `load` says what is wrong
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _send(pipe: BinaryIO, kind: str, values: Sequence[Any]) -> None:
    for start in range(0, len(values), _PIECE):
        piece = pickle.dumps((kind, values[start : start + _PIECE]))
        pipe.write(len(piece).to_bytes(_SIZE, "big") + piece)


def main() -> int:
    """The child: a source comes in, what it says goes out, in pieces. Returns its exit code."""
    os.nice(_NICENESS)
    log.configure("error", sys.argv[1], access=False)
    out = sys.stdout.buffer
    try:
        path, environ, overrides = pickle.load(sys.stdin.buffer)  # noqa: S301 (our own parent wrote it)
        loaded = Source(path, environ=environ, overrides=overrides).load()
    except ConfigurationError as error:
        _send(out, "problem", error.problems)
    except Exception:
        logger.exception("reading the configuration failed; please report this")
        return 1
    else:
        _send(out, "route", loaded.settings.routes)
        _send(out, "warning", loaded.warnings)
        _send(out, "settings", [loaded.settings.model_copy(update={"routes": ()})])
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
