"""The bridge of a route, with relays that keep what they are given and no connection to NATS."""

from __future__ import annotations

import json
from collections.abc import Callable

from sse_keepalive_proxy.live.bridge import RouteBridge
from sse_keepalive_proxy.live.bridged import Bridged
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics
from sse_keepalive_proxy.stream.bridging import MOST, Outcome
from sse_keepalive_proxy.stream.policy import Bridge, BridgeFrame, BridgeMode, BridgeSubject, NatsServers
from tests.support.looping import in_loop, soon


class Connection:
    """No connection: it keeps the receivers."""

    connected_since: float | None = None
    behind_since: float | None = None
    position: int | None = None
    begun = history = 0

    def __init__(self) -> None:
        self.receivers: dict[str, Callable[[bytes, int], None]] = {}

    def receive(self, subject: str, receive: Callable[[bytes, int], None]) -> None:
        self.receivers[subject] = receive

    def ignore(self, subject: str, receive: Callable[[bytes, int], None]) -> None:
        assert self.receivers.pop(subject) == receive


class Flow:
    """A relay that keeps what it is given, if it can be written."""

    def __init__(self, *, writable: bool = True, opaque: bool = False) -> None:
        self.bridge: Bridged | None = None
        self.opaque, self.writable = opaque, writable
        self.written = b""

    def fill(self, blocks: bytes, events: int, *, upstreams: bool) -> bool:
        if self.writable:
            self.written += blocks
        return self.writable


def bridge() -> tuple[RouteBridge, Connection, list[str]]:
    """A bridge that replaces, its connection, and what it has said when it was released."""
    subject = BridgeSubject("chat", "to", frames=(BridgeFrame("", "n"),))
    policy = Bridge(NatsServers(("nats://a",)), "sub", (subject,), BridgeMode.REPLACE)
    connection, released = Connection(), list[str]()
    metrics = RouteMetrics(lambda at: at)
    return RouteBridge("r", policy, metrics, connection, lambda: released.append("r")), connection, released


def say(connection: Connection, number: int) -> None:
    connection.receivers["chat"](json.dumps({"n": number, "to": ["a"]}).encode(), 0)


@in_loop
async def test_a_message_waits_while_upstream_is_inside_a_block() -> None:
    (route, connection, _), flow = bridge(), Flow(writable=False)
    route.serve(flow, {"sub": "a"})
    say(connection, 1)
    say(connection, 2)
    assert flow.written == b""
    flow.writable = True
    await soon(lambda: flow.written == b"data: 1\n\ndata: 2\n\n")
    assert route.metrics.bridge_events[Outcome.FILLED] == 2


@in_loop
async def test_only_so_many_messages_wait_for_the_end_of_a_block() -> None:
    (route, connection, _), flow = bridge(), Flow(writable=False)
    route.serve(flow, {"sub": "a"})
    for number in range(MOST + 3):
        say(connection, number)
    assert route.metrics.bridge_events[Outcome.MISSED] == 3
    flow.writable = True
    say(connection, -1)
    assert flow.written.startswith(b"data: 3\n\n")
    assert flow.written.endswith(b"data: -1\n\n")


@in_loop
async def test_a_body_that_is_no_event_stream_gets_nothing() -> None:
    (route, connection, _), flow = bridge(), Flow(writable=False, opaque=True)
    route.serve(flow, {"sub": "a"})
    say(connection, 1)
    assert route.metrics.bridge_events[Outcome.MISSED] == 1
    assert flow.bridge is not None
    flow.bridge.close()


@in_loop
async def test_a_retired_bridge_serves_its_streams_to_their_end() -> None:
    (route, connection, released), flow = bridge(), Flow()
    route.serve(flow, {"sub": "a"})
    route.retire()
    say(connection, 1)
    assert flow.written == b"data: 1\n\n"
    assert flow.bridge is not None
    flow.bridge.close()
    assert (released, connection.receivers) == (["r"], {})


@in_loop
async def test_a_token_without_the_claim_has_no_place() -> None:
    route, _, _ = bridge()
    for claims in ({}, {"sub": None}, {"sub": ""}, {"sub": True}, {"sub": ["a"]}):
        flow = Flow()
        route.serve(flow, claims)
        assert flow.bridge is None


@in_loop
async def test_what_comes_while_upstream_is_asked_is_written_when_it_has_accepted() -> None:
    (route, connection, _), flow = bridge(), Flow()
    route.expect(flow, {"sub": "a"})
    say(connection, 1)
    assert not route.serves("a")
    route.serve(flow, {"sub": "a"})
    say(connection, 2)
    assert flow.written == b""  # the head of the response is written in this turn of the loop
    await soon(lambda: flow.written == b"data: 1\n\ndata: 2\n\n")
    assert route.serves("a")
    say(connection, 3)
    assert flow.written.endswith(b"data: 3\n\n")


@in_loop
async def test_what_comes_while_upstream_is_asked_is_not_written_if_a_group_has_it() -> None:
    (route, connection, _), group, flow = bridge(), Flow(), Flow()
    route.serve(group, {"sub": "a"})
    route.expect(flow, {"sub": "a"})
    say(connection, 1)
    route.serve(flow, {"sub": "a"})
    assert flow.bridge is not None
    flow.bridge.move(group)
    say(connection, 2)
    assert (group.written, flow.written) == (b"data: 1\n\ndata: 2\n\n", b"")
    assert flow.bridge is None
