"""The open streams: what limits count, and how a stream is shown."""

from __future__ import annotations

import random

from sse_keepalive_proxy.observe.registry import Bridged, OpenStream, Registry, Spread, snapshot
from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import CloseReason, Opened
from sse_keepalive_proxy.stream.policy import Family, StreamPolicy
from sse_keepalive_proxy.stream.states import State


class Passed:
    """What has passed through a stream: nothing yet."""

    comments = events = upstream_bytes = sent_upstream = sent_synthetic = 0
    event_at: float | None = None
    bridge: Bridged | None = None


class Stream:
    """An open stream that nobody relays."""

    stream_id, family = "0011223344556677", Family.BROWSER
    pings = stalls = reconnects = 0
    group: str | None = None

    def __init__(
        self,
        client: str = "203.0.113.7",
        opened_at: float = 1000.0,
        route_name: str = "events",
        *,
        comes_back: bool = True,
    ) -> None:
        self.client, self.opened_at, self.route_name = client, opened_at, route_name
        self.comes_back = comes_back
        self.life = Lifecycle(StreamPolicy(), opened_at, random.random)
        self.flow = Passed()
        self.told: list[tuple[float, CloseReason]] = []

    @property
    def state(self) -> State:
        return self.life.state

    def leave(self, at: float, reason: CloseReason) -> None:
        self.told.append((at, reason))

    def cut(self) -> None:
        raise AssertionError("nobody asked for it")


def filled(registry: Registry, *streams: OpenStream) -> Registry:
    for stream in streams:
        registry.add(stream)
    return registry


# Limits.


def test_there_is_room_until_the_limit_and_again_when_one_has_left() -> None:
    registry, first, second = Registry(2, None), Stream(), Stream()
    assert registry.refusal("anybody") is None
    filled(registry, first)
    assert registry.refusal("anybody") is None
    filled(registry, second)
    assert (len(registry), registry.refusal("anybody")) == (2, "max_streams")
    registry.remove(first)
    assert (len(registry), registry.refusal("anybody")) == (1, None)


def test_a_client_has_a_limit_of_its_own_and_the_whole_limit_comes_first() -> None:
    registry = filled(Registry(3, 2), mine := Stream("203.0.113.7"), Stream("203.0.113.7"))
    assert registry.refusal("203.0.113.7") == "max_streams_per_client"
    assert registry.refusal("203.0.113.8") is None
    registry.remove(mine)
    assert registry.refusal("203.0.113.7") is None
    filled(registry, mine, Stream("203.0.113.8"))
    assert registry.refusal("203.0.113.7") == "max_streams"


def test_leaving_twice_is_leaving_once() -> None:
    registry = filled(Registry(10, 2), mine := Stream(), Stream())
    registry.remove(mine)
    registry.remove(mine)
    registry.remove(Stream())  # was never there
    assert len(registry) == 1
    filled(registry, mine)
    assert registry.refusal(mine.client) == "max_streams_per_client"


def test_a_client_that_has_left_is_forgotten() -> None:
    registry = Registry(10, 1)
    for index in range(1000):
        stream = Stream(f"client {index}")
        filled(registry, stream).remove(stream)
    assert len(registry._clients) == 0


def test_limits_may_change_and_count_those_who_came_before() -> None:
    registry = filled(Registry(10, None), mine := Stream(), Stream())
    assert registry.refusal(mine.client) is None
    registry.per_client = 2
    assert registry.refusal(mine.client) == "max_streams_per_client"
    registry.limit = 1  # none is ended for it
    assert (len(registry), registry.refusal("anybody")) == (2, "max_streams")
    registry.limit, registry.per_client = 10, None
    assert registry.refusal(mine.client) is None


def test_a_stream_is_connecting_until_it_has_begun_or_left() -> None:
    registry = filled(Registry(10, None), first := Stream(), second := Stream())
    assert registry.connecting == 2
    registry.begun(first)
    registry.begun(first)
    assert (registry.connecting, len(registry)) == (1, 2)
    registry.remove(second)
    registry.remove(first)
    assert (registry.connecting, len(registry)) == (0, 0)


def test_streams_may_leave_while_they_are_looked_at() -> None:
    registry = filled(Registry(10, 5), *(Stream() for _ in range(5)))
    seen = 0
    for stream in registry:
        registry.remove(stream)
        seen += 1
    assert (seen, len(registry)) == (5, 0)


# Told to leave.


def test_only_the_streams_of_the_named_routes_leave_each_at_its_own_time() -> None:
    registry = Registry(10, None)
    gone, open_one, other = Stream(route_name="gone"), Stream(route_name="gone"), Stream()
    filled(registry, gone, open_one, other).begun(open_one)
    registry.leave(lambda route: route == "gone", Spread(3.0, 4.0, 9.0), CloseReason.ROUTE_REMOVED)
    for stream in (gone, open_one):
        ((at, reason),) = stream.told
        assert 3.0 <= at <= 4.0
        assert reason is CloseReason.ROUTE_REMOVED
    assert gone.told != open_one.told
    assert other.told == []
    assert not registry.leaving.is_set()
    filled(registry, late := Stream(route_name="gone"))
    assert late.told == []


def test_a_drain_is_for_all_and_for_those_still_to_come() -> None:
    registry = filled(Registry(10, None), here := Stream())
    assert not registry.leaving.is_set()
    assert registry.drain_rest(1000.0) == 0.0
    registry.drain(Spread(1000.0, 1010.0, 1020.0))
    assert registry.leaving.is_set()
    filled(registry, late := Stream(opened_at=1004.0), latest := Stream(opened_at=1020.0))
    for stream, earliest, last in ((here, 1000.0, 1010.0), (late, 1004.0, 1010.0), (latest, 1020.0, 1021.0)):
        ((at, reason),) = stream.told
        assert earliest <= at <= last
        assert reason is CloseReason.DRAIN
    assert registry.drain_rest(1003.0) == 7.0
    assert registry.drain_rest(1011.0) == 0.0


def test_an_answer_that_its_client_has_only_once_may_run_to_its_own_end() -> None:
    registry = filled(Registry(10, None), here := Stream(comes_back=False))
    registry.drain(Spread(1000.0, 1010.0, 1020.0))
    filled(registry, late := Stream(opened_at=1015.0, comes_back=False))
    assert here.told == late.told == [(1020.0, CloseReason.DRAIN)]


# How a stream is shown.


def test_a_stream_without_upstream_bytes_shows_never() -> None:
    stream = Stream(opened_at=1000.0)
    assert snapshot(stream, 1001.23456) == {
        "id": "0011223344556677",
        "route": "events",
        "state": "connecting",
        "client": "203.0.113.7",
        "family": "browser",
        "group": None,
        "age_s": 1.235,
        "since_upstream_byte_s": None,
        "since_upstream_event_s": None,
        "events": 0,
        "comments": 0,
        "pings": 0,
        "stalls": 0,
        "reconnects": 0,
        "finished": False,
        "bridge": None,
        "bytes": 0,
    }


def test_an_open_stream_shows_the_time_since_its_last_byte_and_event() -> None:
    stream = Stream(opened_at=1000.0)
    stream.life.handle(Opened(), 1001.0)
    stream.life.received(1010.0, alive=True)
    stream.life.received(1017.0, alive=False)
    flow = stream.flow
    flow.event_at, flow.events, flow.comments = 1010.0, 1, 2
    flow.upstream_bytes, flow.sent_upstream, flow.sent_synthetic = 30, 29, 7
    stream.pings, stream.stalls, stream.reconnects = 3, 4, 5
    shown = snapshot(stream, 1020.0)
    assert (shown["since_upstream_byte_s"], shown["since_upstream_event_s"]) == (3.0, 10.0)
    assert (shown["state"], shown["age_s"], shown["bytes"]) == ("flowing", 20.0, 36)
    counted = ("events", "comments", "pings", "stalls", "reconnects")
    assert [shown[key] for key in counted] == [1, 2, 3, 4, 5]
