"""`run`: start the proxy."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from typing import TYPE_CHECKING

from sse_keepalive_proxy.cli.common import CONFIGURATION, FAILED, OK, Commands, add_config_flag
from sse_keepalive_proxy.environment import UPSTREAM_VARIABLE

if TYPE_CHECKING:
    from sse_keepalive_proxy.config import Settings
    from sse_keepalive_proxy.serve.source import Source

__all__ = ["add_to"]

_NEW_OBJECTS = 10_000
"""The number of new objects after which Python's garbage collector runs."""

_OLDER = (1, 130) if sys.version_info < (3, 14) else gc.get_threshold()[1:]
"""After how many of these runs the objects that were left are searched too, and after how many of those all
objects are. Python's default is 10 and 10: one pause of 0.1 s for 200,000 objects. Now it is several short
ones, and all objects are searched as rarely as before. Python 3.14 searches in small steps by itself.
"""


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this command to the parser."""
    parser = commands.add_parser(
        "run",
        help="start the proxy",
        description="Start the proxy. SIGTERM or SIGINT begins a drain; a second signal stops it at once. "
        "With --upstream no file is needed: there is one route for every path, with every default.",
        allow_abbrev=False,
    )
    add_config_flag(parser)
    parser.add_argument(
        "--upstream", metavar="URL", help=f"the URL of the upstream (default: {UPSTREAM_VARIABLE})"
    )
    parser.add_argument(
        "--listen", metavar="ADDR", help="the address for clients: host:port, :port or unix:/path"
    )
    parser.add_argument("--admin-listen", metavar="ADDR", help="the address for metrics and probes, or off")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Return exit code 0 after a drain, 1 if an address is not available, 2 for usage, 78 for the
    configuration.
    """
    from sse_keepalive_proxy.cli.configuration import configuration_file, load_or_say, report
    from sse_keepalive_proxy.config import Overrides
    from sse_keepalive_proxy.errors import CannotListen, ConfigurationError
    from sse_keepalive_proxy.observe import log
    from sse_keepalive_proxy.serve.reload import say
    from sse_keepalive_proxy.serve.source import Source

    overrides = Overrides(listen=args.listen, admin_listen=args.admin_listen, upstream=args.upstream)
    file = configuration_file(args.config)
    source = None if file is None else Source(file, environ=os.environ, overrides=overrides)
    loaded = load_or_say(args.config, overrides, "run: no configuration: give -c FILE or --upstream URL")
    if isinstance(loaded, int):
        return loaded
    settings = loaded.settings
    log.configure(settings.logging.level, settings.logging.format, access=settings.logging.access)
    say(loaded.warnings)  # in the format of the log, which may be JSON
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
    """Serve on uvloop if it is installed, otherwise on asyncio's own loop."""
    import asyncio

    from sse_keepalive_proxy.serve.server import run as serve

    # Loaded modules stay, and the objects of a stream live long. By default Python searches them for cycles
    # after every 700 new objects, which makes the opening of a stream slower.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *_OLDER)
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings, source))
    else:
        uvloop.run(serve(settings, source))
