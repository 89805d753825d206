"""`run`: serve."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from typing import TYPE_CHECKING

from sse_keepalive_proxy.cli.common import CONFIGURATION, FAILED, OK, Commands
from sse_keepalive_proxy.environment import CONFIG_VARIABLE, UPSTREAM_VARIABLE

if TYPE_CHECKING:
    from sse_keepalive_proxy.config import Settings
    from sse_keepalive_proxy.serve.source import Source

__all__ = ["add_to"]

_NEW_OBJECTS = 20_000
"""Objects more than were freed, after which Python looks for cycles among them."""


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this command to the parser."""
    parser = commands.add_parser(
        "run",
        help="serve",
        description="Serve until SIGTERM or SIGINT, then drain. A second signal stops at once. With "
        "--upstream alone no file is needed: one route for every path, with every default.",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", metavar="FILE", help=f"the configuration (or {CONFIG_VARIABLE})")
    parser.add_argument("--upstream", metavar="URL", help=f"the server behind (or {UPSTREAM_VARIABLE})")
    parser.add_argument(
        "--listen", metavar="ADDR", help="where clients connect: host:port, :port, unix:/path"
    )
    parser.add_argument("--admin-listen", metavar="ADDR", help="where metrics and probes are, or off")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Exit code 0 after a drain, 1 when an address cannot be listened on, 2 usage, 78 configuration."""
    from sse_keepalive_proxy.cli.configuration import configuration_file, load_or_say, report
    from sse_keepalive_proxy.config import Overrides
    from sse_keepalive_proxy.errors import CannotListen, ConfigurationError
    from sse_keepalive_proxy.observe import log
    from sse_keepalive_proxy.serve.reload import say
    from sse_keepalive_proxy.serve.source import Source

    overrides = Overrides(listen=args.listen, admin_listen=args.admin_listen, upstream=args.upstream)
    file = configuration_file(args.config)
    source = None if file is None else Source(file, environ=os.environ, overrides=overrides)
    loaded = load_or_say(args.config, overrides, "run: nothing to do: give -c FILE or --upstream URL")
    if isinstance(loaded, int):
        return loaded
    settings = loaded.settings
    log.configure(settings.logging.level, settings.logging.format, access=settings.logging.access)
    say(loaded.warnings)  # in the log's own format: it may be JSON
    try:
        run_in_loop(settings, source)
    except ConfigurationError as error:
        report(error.problems)
        return CONFIGURATION
    except CannotListen as error:
        print(f"run: {error}", file=sys.stderr)
        return FAILED
    return OK


def run_in_loop(settings: Settings, source: Source | None) -> None:
    """Serve on uvloop where it runs, else on asyncio's own loop."""
    import asyncio

    from sse_keepalive_proxy.serve.server import run as serve

    # What is loaded stays, and a stream's objects live long: looking them through for cycles after every 700
    # new ones, as Python does by itself, is a tenth of the cost of opening a stream.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings, source))
    else:
        uvloop.run(serve(settings, source))
