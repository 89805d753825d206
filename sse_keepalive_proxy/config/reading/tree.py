"""A configuration before it is typed: plain values that remember where they were written.

Owns the tree, the way to a place in it, and the merging of `defaults`. Knows nothing of YAML
(`config.document`) or of what the keys mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sse_keepalive_proxy.config.types.words import shown

__all__ = ["Entry", "Keys", "Way", "branch", "find", "leaf", "merge_defaults", "plain", "written"]

Way = tuple[str | int, ...]
Keys = Mapping[str, "Entry"]
Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and where it stands.

    `path` and `line` say where it was written, which for a merged default is not where it counts;
    line 0 is a flag or a variable, and `path` then names it. `expanded`: part of the value came
    from the environment and is never quoted. `broken`: already reported, whatever else is said of it.
    """

    value: Scalar | Keys | Sequence[Entry]
    path: str = ""
    line: int = 0
    expanded: bool = False
    broken: bool = False

    @property
    def keys(self) -> Keys:
        """What is below a mapping; empty for anything else."""
        return self.value if isinstance(self.value, Mapping) else {}

    @property
    def items(self) -> Sequence[Entry]:
        """What is in a list; empty for anything else."""
        return self.value if isinstance(self.value, list | tuple) else ()

    @property
    def text(self) -> str | None:
        """The value if it is text, else None."""
        return self.value if isinstance(self.value, str) else None


def leaf(value: Scalar, origin: str) -> Entry:
    """A value that a flag or a variable called `origin` gave."""
    return Entry(value, origin)


def branch(keys: Keys, origin: str) -> Entry:
    """A mapping that stands in no file, on behalf of `origin`."""
    return Entry(keys, origin)


def plain(entry: Entry) -> Any:
    """The bare value, without its places."""
    value = entry.value
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def find(root: Entry, way: Way) -> tuple[Entry, Way]:
    """The deepest entry on `way` and what is left of the way below it."""
    entry = root
    for index, step in enumerate(way):
        inner = _step(entry, step)
        if inner is None:
            return entry, way[index:]
        entry = inner
    return entry, ()


def _step(entry: Entry, step: str | int) -> Entry | None:
    if isinstance(step, str):
        return entry.keys.get(step)
    return entry.items[step] if step < len(entry.items) else None


def written(path: str, way: Way) -> str:
    """`path` continued by `way` in the dotted form: `routes[0].stream.keepalive`."""
    for step in way:
        if isinstance(step, int):
            path = f"{path}[{step}]"
        else:
            path = f"{path}.{shown(step)}" if path else shown(step)
    return path


def merge_defaults(root: Entry) -> Entry:
    """`root` with its `defaults` under the `stream` of each route that has one."""
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
    """`above` with the keys of `below` that it lacks; nothing written counts as an empty mapping.

    An event's `data` is one value: merging two payloads would give one that nobody wrote.
    """
    if above.value is None and below.keys:
        return replace(above, value=below.value)
    if not (isinstance(above.value, Mapping) and below.keys):
        return above
    keys = dict(below.keys)
    for key, entry in above.keys.items():
        keys[key] = _merged(keys[key], entry) if key in keys and key != "data" else entry
    return replace(above, value=keys)
