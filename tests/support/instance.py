"""A running proxy with a stream route: what tests about streams ask of it.

@on_each_loop
async def test_…() -> None:
    async with RawUpstream([GOT_REQUEST, stream_head()]) as upstream:
        async with Instance(config(upstream)) as proxy, await proxy.event_source() as client:
            await client.wait_for(b"connection_confirmed")
            assert proxy.metric("confirms_sent_total", form="event") == 1
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from textwrap import dedent, indent
from typing import Any

from sse_keepalive_proxy.stream.families import TREATMENTS
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import RawUpstream
from tests.support.running import Running, soon

__all__ = ["EVENT_SOURCE", "Instance", "config"]

# The two fields by which a browser's EventSource is known, and nothing beside them.
EVENT_SOURCE = "Accept: text/event-stream\r\nCache-Control: no-cache"


def config(upstream: RawUpstream | str, stream: str = "", *, before: str = "", routes: str = "") -> str:
    """A configuration with one stream route `events` for `/events` and, last, `rest` for everything.

    `stream`: lines of the stream section of `events`; `before`: lines at the top; `routes`: further
    routes, between the two.
    """
    url = upstream if isinstance(upstream, str) else upstream.url
    parts = [
        dedent(before),
        f"upstreams: {{up: {{url: '{url}'}}}}",
        "routes:",
        "  - name: events",
        "    match: {path: /events}",
        "    upstream: up",
        "    stream:",
        indent(dedent(stream), " " * 6),
        indent(dedent(routes), "  "),
        "  - {name: rest, match: {path: /*}, upstream: up}",
    ]
    return "\n".join(part for part in parts if part.strip()) + "\n"


class Instance(Running):
    """A `Running` that speaks of its route `events`."""

    async def event_source(self, target: str = "/events", *headers: str, **how: Any) -> RawClient:
        """A client that has asked for a stream as a browser does."""
        client = await self.client(**how)
        client.request(target, EVENT_SOURCE, *headers)
        return client

    def metric(self, name: str, **labels: str) -> float:
        """A sample by its name without the prefix; `route` is `events` unless it says otherwise."""
        value = self.server.metrics.registry.get_sample_value
        found = value(f"sse_proxy_{name}", {"route": "events", **labels})
        if found is None:
            found = value(f"sse_proxy_{name}", labels)
        assert found is not None, f"there is no {name} {labels}"
        return found

    def opened(self, route: str = "events") -> float:
        """The streams opened so far, of every family."""
        return sum(self.metric("streams_opened_total", route=route, family=family) for family in TREATMENTS)

    def closed(self) -> dict[str, float]:
        """The close reasons that occurred on `events`, and how often."""
        (family,) = (
            family
            for family in self.server.metrics.registry.collect()
            if family.name == "sse_proxy_streams_closed"
        )
        return {
            sample.labels["reason"]: sample.value
            for sample in family.samples
            if sample.value and sample.labels["route"] == "events" and sample.name.endswith("_total")
        }

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition()` holds; counters tell nobody that they have moved."""
        await soon(condition, lambda: inspect.getsource(condition).strip(), within=30.0)

    async def until_closed(self, reason: str, count: int = 1) -> None:
        """Wait until `count` streams have ended: all of them by `reason`, and none beside them."""
        await self.until(lambda: sum(self.closed().values()) >= count)
        assert self.closed() == {reason: count}
