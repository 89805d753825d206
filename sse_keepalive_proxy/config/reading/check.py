"""Check keys against each other. `check_route` checks the keys within one route.

The checks read the untyped tree, so their problems are reported together with all others. Each check uses
only values that are valid by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import TypeAdapter

from sse_keepalive_proxy.config.reading import check_route
from sse_keepalive_proxy.config.reading.check_route import Finding, valid
from sse_keepalive_proxy.config.reading.tree import Entry, Way, entry_at, text_at
from sse_keepalive_proxy.config.sections.settings import Drain, Limits, Match, Settings
from sse_keepalive_proxy.config.sections.stream import Stream
from sse_keepalive_proxy.config.sections.tls import ServerTls, UpstreamTls
from sse_keepalive_proxy.config.types.address import Listen, UpstreamUrl, parse_upstream
from sse_keepalive_proxy.config.types.certificates import client_faults, outdated, server_faults
from sse_keepalive_proxy.config.types.fields import NULL_IS_DEFAULTS, Fault
from sse_keepalive_proxy.config.types.paths import PathTable
from sse_keepalive_proxy.config.types.units import Size, format_duration, format_size
from sse_keepalive_proxy.config.types.words import did_you_mean, shown

__all__ = ["disagreements", "warnings"]

_LISTEN: TypeAdapter[Any] = TypeAdapter(Listen)
_DRAIN = TypeAdapter(Drain)
_LIMITS = TypeAdapter(Annotated[Limits, NULL_IS_DEFAULTS])
_SIZE: TypeAdapter[int] = TypeAdapter(Size)
_MATCH = TypeAdapter(Match)
_URL: TypeAdapter[str] = TypeAdapter(UpstreamUrl)
_SERVER_TLS = TypeAdapter(ServerTls)
_UPSTREAM_TLS = TypeAdapter(Annotated[UpstreamTls, NULL_IS_DEFAULTS])


def disagreements(root: Entry) -> Iterator[Finding]:
    """Yield every conflict between keys of the merged tree, with the path of the key to change."""
    yield from _colliding_listeners(root)
    yield from _spread_beyond_timeout(root)
    yield from _logs_beyond_their_limit(root)
    yield from _unusable_certificates(root)
    yield from _tls_without_https(root)
    yield from _unknown_upstreams(root)
    yield from _repeated_names(root)
    yield from _shadowed_routes(root)
    yield from _in_routes(root, check_route.disagreements)


def warnings(root: Entry) -> Iterator[Finding]:
    """Yield settings that are valid but probably a mistake."""
    used = {text_at(route, "upstream") for route in _routes(root)}
    for name in _keys(root, "upstreams"):
        if name not in used:
            yield ("upstreams", name), Fault("no route uses this upstream")
    yield from _outdated_certificates(root)
    yield from _tls_without_port(root)
    if _keys(root, "defaults") and not any("stream" in route.keys for route in _routes(root)):
        hint = "write `stream:` in a route to make it a stream route"
        yield ("defaults",), Fault("no route has a `stream` for these defaults", hint)
    yield from _in_routes(root, check_route.warnings)


def _in_routes(root: Entry, checked: Callable[[Entry], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of `checked` for each route, with the path from the root."""
    for index, route in enumerate(_routes(root)):
        yield from ((("routes", index, *way), fault) for way, fault in checked(route))


def _keys(root: Entry, *way: str) -> Mapping[str, Entry]:
    entry = entry_at(root, *way)
    return {} if entry is None else entry.keys


def _routes(root: Entry) -> Sequence[Entry]:
    return root.keys.get("routes", Entry(None)).items


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


def _logs_beyond_their_limit(root: Entry) -> Iterator[Finding]:
    """Yield each `share.replay.bytes` of a route that exceeds the limit of all logs together, or what may
    wait for one client: a client that comes back gets the whole log at once.
    """
    limits = valid(_LIMITS, root.keys.get("limits", Entry(None)))
    if limits is None:
        return
    for index, _ in enumerate(_routes(root)):
        way = ("routes", index, "stream", "share", "replay", "bytes")
        size = valid(_SIZE, entry_at(root, *way))
        if size is not None and size > limits.max_replay:
            message = f"must not exceed limits.max_replay, which is {format_size(limits.max_replay)}"
            yield way, Fault(message, "write less, or a larger max_replay")
        written = entry_at(root, "routes", index, "stream", "max_buffer")
        room = Stream().max_buffer if written is None else valid(_SIZE, written)
        if size is not None and room is not None and size > room:
            message = f"must not exceed max_buffer, which is {format_size(room)}: a client can get all of it"
            yield way, Fault(message, "write less, or a larger max_buffer")


def _server_tls(root: Entry) -> ServerTls | None:
    return valid(_SERVER_TLS, root.keys.get("tls"))


def _upstream_tls(root: Entry) -> Iterator[tuple[Way, UpstreamTls]]:
    """Yield the `tls` of each upstream with its path."""
    for name, upstream in _keys(root, "upstreams").items():
        tls = valid(_UPSTREAM_TLS, upstream.keys.get("tls"))
        if tls is not None:
            yield ("upstreams", name, "tls"), tls


def _unusable_certificates(root: Entry) -> Iterator[Finding]:
    """Yield the faults of the files of every `tls`. Opens no connection."""
    tls = _server_tls(root)
    if tls is not None:
        for key, fault in server_faults(tls.cert_file, tls.key_file, tls.client_ca_file):
            yield ("tls", key), fault
    for way, of_upstream in _upstream_tls(root):
        for key, fault in client_faults(of_upstream.ca_file, of_upstream.client_cert):
            yield (*way, key), fault


def _outdated_certificates(root: Entry) -> Iterator[Finding]:
    tls = _server_tls(root)
    if tls is not None and (fault := outdated(tls.cert_file, tls.key_file, of_server=True)) is not None:
        yield ("tls", "cert_file"), fault
    for way, of_upstream in _upstream_tls(root):
        file = of_upstream.client_cert
        if file is not None and (fault := outdated(file, file, of_server=False)) is not None:
            yield (*way, "client_cert"), fault


def _tls_without_https(root: Entry) -> Iterator[Finding]:
    for way, tls in _upstream_tls(root):
        url = valid(_URL, entry_at(root, *way[:-1], "url"))
        if url is None or parse_upstream(url).scheme == "https":
            continue
        for key, value in tls:
            if value is not None:
                hint = "write an https:// url, or remove this key"
                yield (*way, key), Fault("this upstream does not use TLS", hint)


def _tls_without_port(root: Entry) -> Iterator[Finding]:
    listeners = [valid(_LISTEN, entry) for way, entry in _listeners(root) if way[0] == "listen"]
    if _server_tls(root) is None or not listeners:
        return
    if all(address is not None and address.unix_path is not None for address in listeners):
        yield ("tls",), Fault("never used: `listen` has only Unix sockets, which use plain HTTP")


def _unknown_upstreams(root: Entry) -> Iterator[Finding]:
    upstreams = _keys(root, "upstreams")
    if not upstreams:
        return
    otherwise = f"known: {', '.join(map(shown, upstreams))}"
    for index, route in enumerate(_routes(root)):
        name = text_at(route, "upstream")
        if name is not None and name not in upstreams:
            hint = did_you_mean(name, upstreams, otherwise=otherwise)
            yield ("routes", index, "upstream"), Fault("no upstream has this name", hint)


def _repeated_names(root: Entry) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, route in enumerate(_routes(root)):
        name = text_at(route, "name")
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
