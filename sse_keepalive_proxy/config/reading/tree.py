"""The untyped configuration: plain values with their places in the file.

Owns the tree, the paths in it, and the merge of `defaults`. It knows neither YAML (`document`) nor the
meaning of the keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sse_keepalive_proxy.config.types.words import shown

__all__ = ["Entry", "Keys", "Way", "entry_at", "find", "merge_defaults", "plain", "text_at", "written"]

Way = tuple[str | int, ...]
Keys = Mapping[str, "Entry"]
Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and its place.

    `path` and `line` are its place in the file; a merged default keeps its place in `defaults`. With line 0,
    `path` is the name of a flag or a variable. `expanded`: a part of the value came from the environment and
    must not be quoted. `broken`: a problem of the value has already been reported.
    """

    value: Scalar | Keys | Sequence[Entry]
    path: str = ""
    line: int = 0
    expanded: bool = False
    broken: bool = False

    @property
    def keys(self) -> Keys:
        """The entries of a mapping; empty for other values."""
        return self.value if isinstance(self.value, Mapping) else {}

    @property
    def items(self) -> Sequence[Entry]:
        """The entries of a list; empty for other values."""
        return self.value if isinstance(self.value, list | tuple) else ()

    @property
    def text(self) -> str | None:
        """The value if it is text, otherwise None."""
        return self.value if isinstance(self.value, str) else None


def plain(entry: Entry) -> Any:
    """Return the value without places."""
    value = entry.value
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def find(root: Entry, way: Way) -> tuple[Entry, Way]:
    """Return the deepest entry on `way` and the rest of `way` below it."""
    entry = root
    for index, step in enumerate(way):
        inner = _step(entry, step)
        if inner is None:
            return entry, way[index:]
        entry = inner
    return entry, ()


def entry_at(root: Entry, *way: str | int) -> Entry | None:
    """Return the entry at `way`, or None."""
    entry, rest = find(root, way)
    return None if rest else entry


def text_at(root: Entry, *way: str | int) -> str | None:
    """Return the text at `way`, or None if there is nothing or no text."""
    entry = entry_at(root, *way)
    return None if entry is None else entry.text


def _step(entry: Entry, step: str | int) -> Entry | None:
    if isinstance(step, str):
        return entry.keys.get(step)
    return entry.items[step] if step < len(entry.items) else None


def written(path: str, way: Way) -> str:
    """Append `way` to `path` in dotted form: `routes[0].stream.keepalive`."""
    for step in way:
        if isinstance(step, int):
            path = f"{path}[{step}]"
        else:
            path = f"{path}.{shown(step)}" if path else shown(step)
    return path


def merge_defaults(root: Entry) -> Entry:
    """Merge the `defaults` of `root` into the `stream` of each route that has one."""
    defaults, routes = root.keys.get("defaults"), root.keys.get("routes")
    if defaults is None or routes is None or not defaults.keys or not routes.items:
        return root
    merged = [_with_defaults(route, defaults) for route in routes.items]
    return replace(root, value={**root.keys, "routes": replace(routes, value=merged)})


def _with_defaults(route: Entry, defaults: Entry) -> Entry:
    stream = route.keys.get("stream")
    if stream is None:
        return route
    return replace(route, value={**route.keys, "stream": _merged(defaults, stream)})


def _merged(below: Entry, above: Entry) -> Entry:
    """Return `above` plus the keys of `below` that it lacks. An empty value is an empty mapping.

    The `data` of an event is one value and is not merged.
    """
    if above.value is None and below.keys:
        return replace(above, value=below.value)
    if not (isinstance(above.value, Mapping) and below.keys):
        return above
    keys = dict(below.keys)
    for key, entry in above.keys.items():
        keys[key] = _merged(keys[key], entry) if key in keys and key != "data" else entry
    return replace(above, value=keys)
