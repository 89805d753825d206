"""Apply the flags and the environment to the tree of the file.

Owns the places of their values in the tree. These values are checked like any other; their problems name the
flag or the variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sse_keepalive_proxy.config.reading.tree import Entry, text_at
from sse_keepalive_proxy.config.types.words import shown
from sse_keepalive_proxy.environment import (
    ADMIN_LISTEN_VARIABLE,
    LISTEN_VARIABLE,
    LOG_FORMAT_VARIABLE,
    LOG_LEVEL_VARIABLE,
    UPSTREAM_VARIABLE,
)
from sse_keepalive_proxy.errors import Problem

__all__ = [
    "NO_OVERRIDES",
    "Overrides",
    "apply",
    "single_route",
]

_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Overrides:
    """The values of the command-line flags, None for a flag that was not given."""

    listen: str | None = None
    admin_listen: str | None = None
    upstream: str | None = None


NO_OVERRIDES = Overrides()


def single_route(url: str, environ: Mapping[str, str]) -> Entry:
    """Return the tree of a configuration with one upstream and nothing else."""
    origin = UPSTREAM_VARIABLE if environ.get(UPSTREAM_VARIABLE) == url else "--upstream"
    keys = {
        "upstreams": _upstreams(_DEFAULT, Entry(url, origin)),
        "routes": _default_routes(_DEFAULT, origin),
    }
    return Entry(keys, origin)


def apply(root: Entry, environ: Mapping[str, str], overrides: Overrides) -> tuple[Entry, list[Problem]]:
    """Return `root` with the overrides, and the problems of applying them."""
    root = _put(root, ("listen",), _given(overrides.listen, "--listen", environ, LISTEN_VARIABLE))
    root = _put_admin(root, _given(overrides.admin_listen, "--admin-listen", environ, ADMIN_LISTEN_VARIABLE))
    root = _put(root, ("logging", "level"), _given(None, "", environ, LOG_LEVEL_VARIABLE))
    root = _put(root, ("logging", "format"), _given(None, "", environ, LOG_FORMAT_VARIABLE))
    upstream = _given(overrides.upstream, "--upstream", environ, UPSTREAM_VARIABLE)
    return (root, []) if upstream is None else _put_upstream(root, upstream)


def _given(flag: str | None, name: str, environ: Mapping[str, str], variable: str) -> Entry | None:
    """Return the flag's value, or the variable's. An empty variable counts as unset."""
    if flag is not None:
        return Entry(flag, name)
    value = environ.get(variable)
    return Entry(value, variable) if value else None


def _put(root: Entry, way: tuple[str, ...], entry: Entry | None) -> Entry:
    """Return `root` with `entry` at `way`.

    A value on the path that is not a mapping stays as it is; it is reported anyway.
    """
    if entry is None:
        return root
    key, rest = way[0], way[1:]
    if not rest:
        return replace(root, value={**root.keys, key: entry})
    inner = root.keys.get(key)
    if inner is None or inner.value is None:
        inner = Entry({}, entry.path) if inner is None else replace(inner, value={})
    elif not isinstance(inner.value, Mapping):
        return root
    return replace(root, value={**root.keys, key: _put(inner, rest, entry)})


def _put_admin(root: Entry, entry: Entry | None) -> Entry:
    """Return `root` with the admin address. An address turns the listener on, `off` turns it off."""
    if entry is None:
        return root
    admin = root.keys.get("admin")
    if entry.text == "off":
        return _put(root, ("admin",), entry)
    if admin is not None and admin.text == "off":
        return _put(root, ("admin",), Entry({"listen": entry}, entry.path))
    return _put(root, ("admin", "listen"), entry)


def _put_upstream(root: Entry, url: Entry) -> tuple[Entry, list[Problem]]:
    """Return `root` with `url` as the URL of its only upstream, and the problems of that.

    If the file has no upstreams, the name that its routes use is the upstream.
    """
    names = _upstream_names(root)
    if len(names) > 1:
        message = f"the file has several upstreams: {', '.join(map(shown, names))}"
        return root, [Problem(message, url.path, "an override needs a file with one upstream")]
    name = names[0] if names else _DEFAULT
    upstreams = root.keys.get("upstreams")
    if upstreams is None or upstreams.value is None:
        root = _put(root, ("upstreams",), _upstreams(name, url))
    else:
        root = _put(root, ("upstreams", name, "url"), url)
    if "routes" not in root.keys:
        root = _put(root, ("routes",), _default_routes(name, url.path))
    return root, []


def _upstream_names(root: Entry) -> list[str]:
    """Return the names of the file's upstreams or, if it has none, the names that its routes use."""
    upstreams = root.keys.get("upstreams")
    if upstreams is not None and upstreams.value is not None:
        return list(upstreams.keys)
    routes = root.keys.get("routes", Entry(None))
    used = (text_at(route, "upstream") for route in routes.items)
    return list(dict.fromkeys(name for name in used if name is not None))


def _upstreams(name: str, url: Entry) -> Entry:
    return Entry({name: Entry({"url": url}, url.path)}, url.path)


def _default_routes(upstream: str, origin: str) -> Entry:
    route = {
        "name": Entry(_DEFAULT, origin),
        "match": Entry({"path": Entry("/*", origin)}, origin),
        "upstream": Entry(upstream, origin),
        "stream": Entry(None, origin),
    }
    return Entry([Entry(route, origin)], origin)
