"""`routes`: show the route for a URL."""

from __future__ import annotations

import argparse
import sys

from sse_keepalive_proxy.cli.common import FAILED, OK, USAGE, Commands, add_config_flag

__all__ = ["add_to"]


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this command to the parser."""
    parser = commands.add_parser(
        "routes",
        help="show the route for a URL",
        description="Show the route of a configuration that handles a URL.",
        allow_abbrev=False,
    )
    parser.add_argument("url", metavar="URL", help="a path or a whole URL")
    add_config_flag(parser)
    parser.add_argument("--method", metavar="M", default="GET", help="the request's method (default: GET)")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Return exit code 0 if a route matches, 1 if none does, 2 for usage, 78 for the configuration."""
    from urllib.parse import urlsplit

    from sse_keepalive_proxy.cli.configuration import load_or_say
    from sse_keepalive_proxy.config import Overrides
    from sse_keepalive_proxy.gateway.routes import RouteTable

    loaded = load_or_say(args.config, Overrides(), "routes: no configuration: give -c FILE")
    if isinstance(loaded, int):
        return loaded
    try:
        url = urlsplit(args.url)
        host = url.hostname or ""
    except ValueError as error:
        print(f"routes: not a URL: {error}", file=sys.stderr)
        return USAGE
    route = RouteTable(loaded.settings.routes).find(
        method=args.method.upper(), path=url.path or "/", host=host
    )
    if route is None:
        print("no route matches: 404")
        return FAILED
    kind = "stream" if route.stream is not None else "pass-through"
    print(f"{route.name}  {route.match.path}  {kind}  -> {loaded.settings.upstreams[route.upstream].url}")
    return OK
