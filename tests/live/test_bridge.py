"""The bridge of a route, with relays that keep what they are given and no connection to NATS."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from sse_keepalive_proxy.live.bridge import RouteBridge
from sse_keepalive_proxy.live.bridged import Bridged
from sse_keepalive_proxy.live.subscriptions import Receive
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics
from sse_keepalive_proxy.stream.bridging import MOST, Outcome
from sse_keepalive_proxy.stream.policy import Bridge, BridgeFrame, BridgeMode, BridgeSubject, NatsServers
from sse_keepalive_proxy.stream.position import Position
from tests.support.looping import in_loop, soon


class Connection:
    """No connection: it keeps the receivers. `busy`: what the last one has returned."""

    connected_since: float | None = None
    lost = 0
    refused: frozenset[str] = frozenset()
    behind_since: float | None = None
    position: int | None = None
    begun = history = 0

    def __init__(self) -> None:
        self.receivers: dict[str, Receive] = {}
        self.busy: asyncio.Event | None = None

    def receive(self, subject: str, receive: Receive) -> None:
        self.receivers[subject] = receive

    def ignore(self, subject: str, receive: Receive) -> None:
        assert self.receivers.pop(subject) == receive


class Flow:
    """A relay that keeps what it is given, if it can be written."""

    def __init__(self, *, writable: bool = True, opaque: bool = False) -> None:
        self.bridge: Bridged | None = None
        self.opaque, self.writable = opaque, writable
        self.written = b""
        self.failed: BaseException | None = None

    def fill(self, blocks: bytes, events: int, *, upstreams: bool) -> bool:
        if self.writable:
            self.written += blocks
        return self.writable

    def missed(self) -> None:
        pass

    def fail(self, error: BaseException) -> None:
        self.failed = error


class Turns:
    """The turns of the event loop, and how many messages are written in each. On the clock of the loop a
    write takes 1 ms, a turn takes 0.1 ms more, and nothing else takes time.
    """

    def __init__(self) -> None:
        self.written: Counter[int] = Counter()
        self._loop, self._number = asyncio.get_running_loop(), 0
        self._now = self._loop.time()
        self._loop.time = lambda: self._now  # type: ignore[method-assign]
        self._next()

    def _next(self) -> None:
        self._number += 1
        self._now += 0.0001
        self._loop.call_soon(self._next)

    def write(self) -> None:
        self.written[self._number] += 1
        self._now += 0.001

    @property
    def longest(self) -> int:
        """The most writes in one turn."""
        return max(self.written.values())


class Slow(Flow):
    """A relay whose writes take time."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns

    def fill(self, blocks: bytes, events: int, *, upstreams: bool) -> bool:
        self._turns.write()
        return super().fill(blocks, events, upstreams=upstreams)


def bridge(
    mode: BridgeMode = BridgeMode.REPLACE, grace: float = 1.0, data: str = "n"
) -> tuple[RouteBridge, Connection, list[str]]:
    """A bridge, its connection, and what it has said when it was released. A message is handled in no time on
    the clock of the loop, so that a slow machine divides it into no more slices.
    """
    if "time" not in vars(asyncio.get_running_loop()):
        Turns()
    subject = BridgeSubject("chat", "to", frames=(BridgeFrame("", data),))
    policy = Bridge(NatsServers(("nats://a",)), "sub", (subject,), mode, grace)
    connection, released = Connection(), list[str]()
    metrics = RouteMetrics(lambda at: at)
    return RouteBridge("r", policy, metrics, connection, lambda: released.append("r")), connection, released


def say(connection: Connection, number: int, position: int = 0) -> None:
    message = json.dumps({"n": number, "to": ["a"]}).encode()
    connection.busy = connection.receivers["chat"](message, position)


def place(flow: Flow) -> Bridged:
    assert flow.bridge is not None
    return flow.bridge


def served(route: RouteBridge, *flows: Flow) -> tuple[Flow, ...]:
    for flow in flows:
        route.serve(flow, {"sub": "a"})
    return flows


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
async def test_a_subject_that_nats_refuses_concerns_only_its_own_routes() -> None:
    (route, connection, _), flow = bridge(), Flow()
    route.serve(flow, {"sub": "a"})
    connection.connected_since = route.now() - 10
    for refused in ({"other"}, {"other", "chat"}):
        connection.refused = frozenset(refused)
        fine = "chat" not in refused
        assert (route.connected, route.connected_since(route.now() - 5)) == (fine, fine)
        assert place(flow).covers(5.0) == fine  # otherwise a gap of upstream is announced


@in_loop
async def test_only_so_many_messages_wait_for_the_end_of_a_block() -> None:
    (route, connection, _), flow = bridge(), Flow(writable=False)
    route.serve(flow, {"sub": "a"})
    for number in range(MOST + 3):
        say(connection, number)
    assert route.metrics.bridge_events[Outcome.MISSED] == 3
    assert route.metrics.bridge_overflows == {"stream": 2, "replay": 0, "audiences": 0}
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


# A message for many streams.


@pytest.mark.parametrize("mode", [BridgeMode.FILL, BridgeMode.REPLACE])
@in_loop
async def test_a_message_for_thousands_of_streams_is_written_in_many_turns_of_the_loop(
    mode: BridgeMode,
) -> None:
    turns, (route, connection, _) = Turns(), bridge(mode, grace=0.01)
    flows = served(route, *(Slow(turns) for _ in range(5000)))
    say(connection, 1)
    say(connection, 2)
    filled = route.metrics.bridge_events
    await soon(lambda: filled[Outcome.FILLED] == 2 * len(flows), within=60.0)  # on the clock of the loop
    assert turns.longest <= 6
    assert {flow.written for flow in flows} == {b"data: 1\n\ndata: 2\n\n"}


@in_loop
async def test_no_further_message_is_asked_for_while_one_is_given_to_its_streams() -> None:
    turns, (route, connection, _) = Turns(), bridge()
    flows = served(route, *(Slow(turns) for _ in range(20)))
    say(connection, 1)
    assert connection.busy is not None
    await connection.busy.wait()
    assert all(flow.written for flow in flows)
    for flow in flows[1:]:
        place(flow).close()
    say(connection, 2)
    assert connection.busy is None


@in_loop
async def test_streams_may_come_and_go_while_a_message_is_given_to_the_others() -> None:
    turns, (route, connection, _) = Turns(), bridge()
    gone, ended, *others = served(route, *(Slow(turns) for _ in range(30)))
    say(connection, 1)
    place(gone).close()
    place(ended).finish()
    place(ended).close()
    (new,) = served(route, Slow(turns))
    say(connection, 2)
    await soon(lambda: connection.busy is not None and connection.busy.is_set())
    assert (gone.written, ended.written, new.written) == (b"", b"data: 1\n\n", b"data: 2\n\n")
    assert {flow.written for flow in others} == {b"data: 1\n\ndata: 2\n\n"}


@pytest.mark.parametrize("mode", [BridgeMode.FILL, BridgeMode.REPLACE])
@pytest.mark.parametrize("group_first", [True, False])
@in_loop
async def test_a_stream_may_join_a_group_while_a_message_is_given_to_one_of_them(
    mode: BridgeMode, group_first: bool
) -> None:
    """The last streams get a message first. What the group has written by then, the client has not got."""
    turns, (route, connection, _) = Turns(), bridge(mode, grace=0.01)
    group, client = Flow(), Flow()
    many = [Slow(turns) for _ in range(30)]
    served(route, *((client, *many, group) if group_first else (group, *many, client)))
    say(connection, 1)
    place(client).move(group)
    say(connection, 2)
    await soon(lambda: all(each.written.endswith(b"data: 2\n\n") for each in (group, *many)))
    assert route.metrics.bridge_events[Outcome.FILLED] >= 2 * (len(many) + 1)
    first = b"data: 1\n\n" if mode is BridgeMode.REPLACE else b""
    assert (group.written, client.written) == (b"data: 1\n\ndata: 2\n\n", first)


@in_loop
async def test_a_position_is_reached_when_the_stream_has_been_given_the_message() -> None:
    turns, (route, connection, _) = Turns(), bridge()
    last, *_ = served(route, *(Slow(turns) for _ in range(30)))
    connection.position = 4
    say(connection, 1, position=4)
    assert place(last).position == Position(4, (4,))
    await soon(lambda: place(last).position == Position(4))
    assert last.written == b"data: 1\n\n"


@in_loop
async def test_an_error_of_one_stream_ends_this_stream_only() -> None:
    class Broken(Flow):
        def fill(self, blocks: bytes, events: int, *, upstreams: bool) -> bool:
            raise ZeroDivisionError

    (route, connection, _), broken, flow = bridge(), Broken(), Flow()
    served(route, flow, broken)
    say(connection, 1)
    assert isinstance(broken.failed, ZeroDivisionError)
    assert (flow.written, flow.failed) == (b"data: 1\n\n", None)


@pytest.mark.parametrize("mode", [BridgeMode.FILL, BridgeMode.REPLACE])
@in_loop
async def test_a_stream_that_cannot_even_be_ended_stops_no_other(mode: BridgeMode) -> None:
    class Broken(Flow):
        opaque = property(lambda _: 1 / 0, lambda *_: None)  # type: ignore[assignment]

        def fail(self, error: BaseException) -> None:
            raise error

    (route, connection, _), flow = bridge(mode, grace=0.01), Flow()
    said: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["exception"]))
    served(route, flow, Broken(writable=False))
    if mode is BridgeMode.FILL:
        say(connection, 1)
    else:
        with pytest.raises(ZeroDivisionError):
            say(connection, 1)
    await soon(lambda: flow.written == b"data: 1\n\n")
    assert [type(each) for each in said] == [ZeroDivisionError] * (mode is BridgeMode.FILL)


@in_loop
async def test_what_waits_for_upstream_is_written_when_the_stream_ends() -> None:
    (route, connection, _), flow = bridge(BridgeMode.FILL), Flow()
    served(route, flow)
    say(connection, 1)
    assert flow.written == b""
    place(flow).finish()
    place(flow).close()
    assert flow.written == b"data: 1\n\n"


# Messages that cannot be read.


@in_loop
async def test_what_cannot_be_read_is_logged_once_in_a_minute_for_each_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (route, connection, _), clock = bridge(data="sum(n)"), [0.0]
    route.now = lambda: clock[0]
    receive = connection.receivers["chat"]
    for at, lines in ((0.0, 2), (59.9, 2), (60.0, 4), (119.9, 4), (1000.0, 6)):
        clock[0] = at
        for _ in range(3):
            receive(b"no json", 0)
            receive(b'{"to": "a", "n": [[1]]}', 0)  # `sum` of an array of arrays
        assert len([each for each in caplog.records if "cannot be read" in each.getMessage()]) == lines
    assert route.metrics.bridge_events[Outcome.INVALID] == 30
