"""Check keys against each other. `check_route` checks the keys within one route.

The checks read the untyped tree, so their problems are reported together with all others. Each check uses
only values that are valid by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from sse_keepalive_proxy.config.reading import check_route
from sse_keepalive_proxy.config.reading.check_route import Finding, valid
from sse_keepalive_proxy.config.reading.tree import Entry, Way, find
from sse_keepalive_proxy.config.sections.settings import Drain, Match, Settings
from sse_keepalive_proxy.config.types.address import Listen
from sse_keepalive_proxy.config.types.fields import Fault
from sse_keepalive_proxy.config.types.paths import PathTable
from sse_keepalive_proxy.config.types.units import format_duration
from sse_keepalive_proxy.config.types.words import did_you_mean, shown

__all__ = ["disagreements", "warnings"]

_LISTEN: TypeAdapter[Any] = TypeAdapter(Listen)
_DRAIN = TypeAdapter(Drain)
_MATCH = TypeAdapter(Match)


def disagreements(root: Entry) -> Iterator[Finding]:
    """Yield every conflict between keys of the merged tree, with the path of the key to change."""
    yield from _colliding_listeners(root)
    yield from _spread_beyond_timeout(root)
    yield from _unknown_upstreams(root)
    yield from _repeated_names(root)
    yield from _shadowed_routes(root)
    yield from _in_routes(root, check_route.disagreements)


def warnings(root: Entry) -> Iterator[Finding]:
    """Yield settings that are valid but probably a mistake."""
    used = {route.keys["upstream"].text for route in _routes(root) if "upstream" in route.keys}
    for name in _keys(root, "upstreams"):
        if name not in used:
            yield ("upstreams", name), Fault("no route uses this upstream")
    if _keys(root, "defaults") and not any("stream" in route.keys for route in _routes(root)):
        hint = "write `stream:` in a route to make it a stream route"
        yield ("defaults",), Fault("no route has a `stream` for these defaults", hint)
    yield from _in_routes(root, check_route.warnings)


def _in_routes(root: Entry, checked: Callable[[Entry], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of `checked` for each route, with the path from the root."""
    for index, route in enumerate(_routes(root)):
        yield from ((("routes", index, *way), fault) for way, fault in checked(route))


def _keys(root: Entry, *way: str) -> Mapping[str, Entry]:
    entry, rest = find(root, way)
    return {} if rest else entry.keys


def _routes(root: Entry) -> list[Entry]:
    entry, rest = find(root, ("routes",))
    return [] if rest else list(entry.items)


def _colliding_listeners(root: Entry) -> Iterator[Finding]:
    bound = list(Settings.model_fields["listen"].default) if "listen" not in root.keys else []
    for way, entry in _listeners(root):
        address = valid(_LISTEN, entry)
        if address is None:
            continue
        if any(address.collides_with(other) for other in bound):
            yield way, Fault("another listener has this address", "every listener needs its own address")
        bound.append(address)


def _listeners(root: Entry) -> Iterator[tuple[Way, Entry]]:
    listen = root.keys.get("listen")
    if listen is not None and listen.items:
        yield from ((("listen", index), item) for index, item in enumerate(listen.items))
    elif listen is not None:
        yield ("listen",), listen
    admin = root.keys.get("admin", Entry(None))
    if "listen" in admin.keys:
        yield ("admin", "listen"), admin.keys["listen"]
    elif admin.text is None:
        # Neither written nor off: it listens on its default address.
        yield ("admin",), Entry(str(Settings.model_fields["admin"].default.listen))


def _spread_beyond_timeout(root: Entry) -> Iterator[Finding]:
    drain = valid(_DRAIN, root.keys.get("drain"))
    if drain is None or drain.spread <= drain.timeout:
        return
    written = "spread" in _keys(root, "drain")
    message = f"must not exceed the timeout of {format_duration(drain.timeout)}"
    if not written:
        message = f"its default of {format_duration(drain.spread)} exceeds the timeout"
    hint = "" if written else f"write one, e.g. spread: {format_duration(drain.timeout)}"
    yield ("drain", "spread"), Fault(message, hint)


def _unknown_upstreams(root: Entry) -> Iterator[Finding]:
    upstreams = _keys(root, "upstreams")
    if not upstreams:
        return
    otherwise = f"known: {', '.join(map(shown, upstreams))}"
    for index, route in enumerate(_routes(root)):
        name = route.keys["upstream"].text if "upstream" in route.keys else None
        if name is not None and name not in upstreams:
            hint = did_you_mean(name, upstreams, otherwise=otherwise)
            yield ("routes", index, "upstream"), Fault("no upstream has this name", hint)


def _repeated_names(root: Entry) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, route in enumerate(_routes(root)):
        name = route.keys["name"].text if "name" in route.keys else None
        if name is not None and name in first:
            yield ("routes", index, "name"), Fault(f"routes[{first[name]}] already has this name")
        elif name is not None:
            first[name] = index


def _shadowed_routes(root: Entry) -> Iterator[Finding]:
    earlier: PathTable[tuple[str, Match]] = PathTable()
    for index, route in enumerate(_routes(root)):
        match = valid(_MATCH, route.keys.get("match"))
        if match is None:
            continue
        taking = earlier.taking(match.path.removesuffix("*"))
        by = next((name for name, other in taking if other.covers(match)), None)
        if by is not None:
            hint = f"put it before {by}, or narrow {by}"
            yield ("routes", index), Fault(f"never reached: {by} matches all its requests", hint)
        earlier.add(match.path, (_called(route, index), match))


def _called(route: Entry, index: int) -> str:
    """Return the name of a route for messages, never a value from the environment."""
    name = route.keys.get("name")
    if name is None or name.text is None or name.expanded:
        return f"routes[{index}]"
    return f"`{shown(name.text)}`"
