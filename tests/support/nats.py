"""A real nats-server, and a client of it that publishes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from tests.support.programs import Program, free_port, require, running

__all__ = ["nats_server", "publisher", "send"]


@contextmanager
def nats_server(folder: Path, port: int | None = None, *more: str) -> Iterator[tuple[Program, int]]:
    """A server of its own until the block ends, and its port."""
    port = port or free_port()
    command = [require("nats-server"), "-a", "127.0.0.1", "-p", str(port), *more]
    with running(command, port=port, log_file=folder / f"nats-{port}.log") as program:
        yield program, port


@asynccontextmanager
async def publisher(port: int, *credentials: str) -> AsyncIterator[Client]:
    """A connected client. `credentials`: its user and password."""
    client = Client()
    login = dict(zip(("user", "password"), credentials, strict=False))
    await client.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False, **login)
    try:
        yield client
    finally:
        await client.close()


async def send(client: Client, subject: str, value: Any) -> None:
    """Publish a JSON value, and wait until the server has it."""
    await client.publish(subject, value if isinstance(value, bytes) else json.dumps(value).encode())
    await client.flush()
