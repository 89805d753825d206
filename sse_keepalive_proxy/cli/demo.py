"""`demo`: show how the proxy repairs a stream, on loopback and without setup."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Coroutine
from typing import Any

from sse_keepalive_proxy.cli.common import FAILED, OK, Commands
from sse_keepalive_proxy.demo import DEFAULT_PORT

__all__ = ["add_to"]


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this command to the parser."""
    parser = commands.add_parser(
        "demo",
        help="show how the proxy repairs a broken stream",
        description="Start a stand-in for a notify-server, this proxy in front of it, and a page. The "
        "stand-in is silent, ends a stream after its first event and can be restarted. The page shows the "
        "same stream directly and through the proxy. Everything is on loopback and needs no configuration. "
        "The terminal shows the state of both streams until Ctrl-C.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--port",
        type=_port,
        metavar="N",
        help=f"the port of the proxy and its page (default: {DEFAULT_PORT}, or a free port if it is in use)",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="run six scenes in about sixteen seconds, print the result and exit: 0 healed, 1 not healed; "
        "the last one needs nats-server and the extras jwt and nats, and is left out without them",
    )
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Return exit code 0 if healed or after Ctrl-C, 1 if not healed or if the port is in use."""
    from sse_keepalive_proxy.demo.stage import settings
    from sse_keepalive_proxy.errors import CannotListen
    from sse_keepalive_proxy.observe import log

    logging = settings().logging
    log.configure(logging.level, logging.format, access=logging.access)
    try:
        return _run(_once(args.port) if args.once else _live(args.port))
    except CannotListen as error:
        print(f"demo: {error}", file=sys.stderr)
        return FAILED


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"not a port: {text!r} (0 uses a free port)")
    return int(text)


def _run(main: Coroutine[Any, Any, int]) -> int:
    import asyncio

    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    code: int = uvloop.run(main)
    return code


async def _once(port: int | None) -> int:
    from sse_keepalive_proxy.demo.stage import staged
    from sse_keepalive_proxy.demo.story import tell

    async with staged(port) as stage:
        return OK if await tell(stage, lambda line: print(line, flush=True)) else FAILED


async def _live(port: int | None) -> int:
    import asyncio
    import signal

    from sse_keepalive_proxy.demo.live import watch
    from sse_keepalive_proxy.demo.stage import staged

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with staged(port) as stage:
        await watch(stage, sys.stdout, ended)
    return OK
