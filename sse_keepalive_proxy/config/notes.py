"""Say what valid settings mean where their names alone do not tell it. `check` prints these notes."""

from __future__ import annotations

from collections.abc import Iterator

from sse_keepalive_proxy.config.sections.settings import Route, Settings
from sse_keepalive_proxy.config.types.units import format_duration
from sse_keepalive_proxy.wire import encode
from sse_keepalive_proxy.wire.block import split

__all__ = ["notes"]

_COMES_BACK = 15.0
"""Seconds after which the last client of a group is back, if only its network has changed."""


def notes(settings: Settings) -> Iterator[str]:
    """Yield one line for each setting, with its path."""
    for index, route in enumerate(settings.routes):
        early = None if route.stream is None else route.stream.policy.early_commit
        others = [] if early is None else sorted(early.methods - {"GET", "HEAD"})
        if others:
            yield (
                f"note: routes[{index}].stream.early_commit.methods: {', '.join(others)} gets an early 200 "
                'only if a JSON body says "stream": true or `Accept` names event streams, and never from MCP '
                "clients. A later refusal is an exception in the client's library, which does not repeat the "
                "request"
            )
        yield from _short_memory(index, route)
        yield from _examples(index, route)


def _examples(index: int, route: Route) -> Iterator[str]:
    """Yield what the bridge would do with each example message."""
    bridge = None if route.stream is None else route.stream.bridge
    if bridge is None or all(subject.example is None for subject in bridge.subjects):
        return
    from sse_keepalive_proxy.stream.bridge_mapping import Mapping  # needs the extra `nats`

    mapping = Mapping(bridge.policy.subjects)
    for place, subject in enumerate(bridge.subjects):
        if subject.example is None:
            continue
        said = f"note: routes[{index}].stream.bridge.subjects[{place}].example:"
        found = mapping.read(place, encode.json_line(subject.example).encode())
        if found is None:
            yield f"{said} is ignored, because `when` or `recipients` is null"
            continue
        yield f"{said} is for {', '.join(sorted(found.recipients)) or 'no recipient'}"
        known = {nth: text for _, nth, text in found.keys}
        for nth in range(len(subject.keys)):
            yield f"{said} keys[{nth}] is {known.get(nth, 'null, which matches nothing')}"
        for block in split(found.frames):
            yield f"{said} sends {' / '.join(block.decode().splitlines()[:-1])}"
        if not found.frames:
            yield f"{said} sends nothing"
        elif subject.keys:
            of_sent = {key for block in split(found.frames) for key in mapping.upstream_keys(block)}
            fit = ", ".join(f"upstream_keys[{key[1]}]" for key in found.keys if key in of_sent)
            yield f"{said} if upstream sends the same, it is recognised by {fit or 'no upstream_keys'}"


def _short_memory(index: int, route: Route) -> Iterator[str]:
    """Yield a note if the log of a group may be gone before its last client has come back."""
    stream = None if route.stream is None else route.stream.policy
    if stream is None or stream.share is None or stream.share.replay is None:
        return
    kept = max(stream.share.linger, stream.hold or 0.0)
    if kept < _COMES_BACK:
        yield (
            f"note: routes[{index}].stream.share.linger: a group and its log are gone "
            f"{format_duration(kept)} after the last client has left. A client that comes back later may "
            "have missed events, and gets an event `stream_gap`"
        )
