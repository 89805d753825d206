"""Read the configuration file in a child process, so that the event loop is not blocked.

Reading many routes takes seconds of Python (10,000: 4 s). A thread would hold the interpreter's lock, and
every call of the loop would wait for it (decision 7). So a child reads the file. It sends the finished
configuration, or its problems, over a pipe, in pieces that are quickly unpacked.

This module owns the child and its pipe. The package `config` parses and checks the file.
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
"""Bytes of the length before each piece."""

_NICENESS = 5
"""The child's nice value: the proxy has priority if they share a core."""


class Source:
    """The configuration file at `path`, with the flags and the environment of the start.

    It must be made before the first `load`: `watch` records the contents now, so that no change is missed.
    """

    def __init__(self, path: Path, *, environ: Mapping[str, str], overrides: Overrides) -> None:
        self.path = path
        self.environ, self.overrides = dict(environ), overrides
        self.watch = Watch([path])

    def load(self) -> Loaded:
        """Load the file. This blocks, for seconds if it is large. Raises `ConfigurationError`."""
        if _is_pipe(self.path):  # a second read would block
            hint = "start with a file that can be read again"
            raise ConfigurationError((Problem("is not a regular file", hint=hint, file=str(self.path)),))
        return load(self.path, environ=self.environ, overrides=self.overrides)


async def load_in_child(source: Source, log_format: str) -> Loaded:
    """Load `source` in a child process. `log_format`: the log format of the child.

    Raises `ConfigurationError`, also if the child cannot be started or ends early. Cancelling ends the child.
    """
    file = str(source.path)
    try:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", __name__, log_format),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # signals to the proxy's process group do not reach the child
        )
    except OSError as error:
        raise _unread(file, f"no process can be started for it: {error.strerror}") from error
    if child.stdin is None or child.stdout is None:
        raise AssertionError("both are pipes")
    found: defaultdict[str, list[Any]] = defaultdict(list)
    try:
        with contextlib.suppress(OSError, RuntimeError):  # the child has ended; its status is checked below
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
    """Yield the pieces that the child sends, until it ends."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            size = int.from_bytes(await pipe.readexactly(_SIZE), "big")
            yield pickle.loads(await pipe.readexactly(size))  # noqa: S301 (our own child wrote it)
            await asyncio.sleep(0)  # `readexactly` does not yield if the bytes are there


def _unread(file: str, why: str) -> ConfigurationError:
    return ConfigurationError((Problem(f"cannot be read: {why}", file=file),))


def _is_pipe(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False  # `load` reports the problem
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _send(pipe: BinaryIO, kind: str, values: Sequence[Any]) -> None:
    for start in range(0, len(values), _PIECE):
        piece = pickle.dumps((kind, values[start : start + _PIECE]))
        pipe.write(len(piece).to_bytes(_SIZE, "big") + piece)


def main() -> int:
    """Run the child: read a source from stdin, write its contents to stdout. Return the exit code."""
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
