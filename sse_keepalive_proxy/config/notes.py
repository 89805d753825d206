"""Say what valid settings mean where their names alone do not tell it. `check` prints these notes."""

from __future__ import annotations

from collections.abc import Iterator

from sse_keepalive_proxy.config.sections.settings import Settings

__all__ = ["notes"]


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
