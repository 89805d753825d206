"""The tests of this proxy alone: how its costs grow, what it does when full, and when upstream comes back."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bench.figures import median
from bench.load import Load, Reading
from bench.machine import descriptor_limit
from bench.peers import Stage
from bench.processes import Running, StartFailed

__all__ = ["ALONE", "Full", "Growth", "Lag", "Routes", "Storm", "full", "growth", "routes", "storm"]

ALONE = ("growth", "full", "storm")

_SPARE = 400  # descriptors of the proxy itself, and of the generator, that are no stream's
_POLL = 0.25
_REFUSALS = 200
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Growth:
    """What so many open streams cost: medians over several fresh processes."""

    streams: int
    cpu_per_event_us: float
    cpu_per_open_us: float
    kib_per_stream: float
    idle_cpu_percent: float
    faults: int


@dataclass(frozen=True, slots=True)
class Routes:
    """What an opening costs with so many routes, of which the last one matches."""

    routes: int
    cpu_per_open_us: float
    faults: int


@dataclass(frozen=True, slots=True)
class Full:
    """Every place taken, and more clients at the door."""

    streams: int
    descriptors: int
    asked: int
    refused: int
    cpu_percent: float
    seconds: float
    events: int
    faults: int
    fault_kinds: str


@dataclass(frozen=True, slots=True)
class Storm:
    """Upstream gone under all streams, and back."""

    streams: int
    outage_s: float
    reopened_s: float
    reopened_p50_s: float
    worst_lag_s: float
    cpu_s: float
    told: int
    ended: int
    faults: int


def growth(stage: Stage, load: Load, rounds: int, say: Say, *, quick: bool) -> list[Growth]:
    """Streams by powers of ten, as far as descriptors go: each takes two, in the proxy and in the load."""
    most = (descriptor_limit() - _SPARE) // 2
    sizes = [100, 300] if quick else sorted({min(size, most) for size in (100, 1_000, 10_000)})
    return [_growth(stage, load, size, rounds, say, quick=quick) for size in sizes]


def _growth(stage: Stage, load: Load, streams: int, rounds: int, say: Say, *, quick: bool) -> Growth:
    baseline = 20  # so that what a process takes once is not laid on these streams
    hold, events = (0.5, 0.3) if quick else (16.5, 1.6)
    flags = ("--streams", streams, "--baseline", baseline, "--seconds", hold, "--warm", 0.4)
    readings = []
    for number in range(rounds):
        say(f"growth: {streams:,} streams, {number + 1} of {rounds}")
        with stage.run_proxy() as proxy:
            more = ("--event-seconds", events, "--in-flight", 100)
            readings.append(load.run("idle", proxy, *flags, *more))
    opened = streams - baseline
    return Growth(
        streams,
        median(r.event_cpu_s / r.events * 1e6 for r in readings),
        median(r.open_cpu_s / opened * 1e6 for r in readings),
        median((r.rss_after_kib - r.rss_before_kib) / opened for r in readings),
        median(r.cpu_s / r.seconds * 100 for r in readings),
        sum(r.fault_count for r in readings),
    )


def routes(
    stage: Stage, load: Load, rounds: int, say: Say, *, quick: bool
) -> tuple[list[Routes], dict[str, str]]:
    """Openings with a growing number of routes in front of the one that matches. With them, why some of these
    numbers are missing: a configuration may be refused for its size.
    """
    window = ("--warm", 0.2, "--seconds", 0.4) if quick else ("--warm", 0.5, "--seconds", 2)
    found, left_out = [], {}
    for count in [1, 100] if quick else [1, 100, 1_000, 3_000, 10_000]:
        say(f"growth: {count:,} routes")
        try:
            with stage.run_proxy(routes=count) as proxy:
                readings = [
                    load.run("churn", proxy, "--streams", 32, "--at-once", 32, *window) for _ in range(rounds)
                ]
        except StartFailed as error:
            left_out[f"{count:,} routes"] = str(error)
            say(f"growth: {count:,} routes left out: {error}")
            continue
        cost = median(r.cpu_s / r.events * 1e6 for r in readings if r.events)
        found.append(Routes(count, cost, sum(r.fault_count for r in readings)))
    return found, left_out


def full(stage: Stage, load: Load, say: Say, *, quick: bool) -> Full:
    """All places of the proxy taken, as it tells them itself under its limit of descriptors."""
    # The generator needs its own: two for each held stream, one for each that is turned away.
    files = 1_000 if quick else descriptor_limit() - 2 * _REFUSALS - _SPARE
    say("full: every place taken")
    with stage.run_proxy(files=files) as proxy:
        places = int(metric(proxy, "sse_proxy_streams_limit"))
        flags = ("--streams", places + _REFUSALS, "--refusals", _REFUSALS, "--seconds", 1 if quick else 3)
        reading = load.run("full", proxy, *flags)
    # Whoever was not turned away rightly is a fault already: a wrong status, an end, or no answer.
    return Full(
        places,
        files,
        _REFUSALS,
        reading.refused,
        reading.cpu_s / reading.seconds * 100,
        reading.seconds,
        reading.events,
        reading.fault_count,
        reading.fault_kinds,
    )


def storm(stage: Stage, load: Load, rounds: int, say: Say, *, quick: bool) -> list[Storm]:
    """The origin dies under all streams, half of its connections reset, and is back after a second."""
    streams = 200 if quick else min(5_000, (descriptor_limit() - _SPARE) // 2)
    found = []
    for number in range(rounds):
        say(f"storm: {streams:,} streams, {number + 1} of {rounds}")
        with stage.run_proxy(reconnect="always") as proxy, watching(proxy) as lag:
            reading = load.run(
                "storm", proxy, "--streams", streams, "--outage", 1, "--seconds", 60, marked=lag.begin
            )
        found.append(_storm(reading, streams, lag))
    return found


def _storm(reading: Reading, streams: int, lag: Lag) -> Storm:
    return Storm(
        streams,
        1.0,
        reading.reopened_s,
        reading.reopened_p50_us / 1e6,
        lag.worst,
        reading.cpu_s,
        reading.recovered,
        reading.faults["ended"],
        reading.fault_count,
    )


def metric(proxy: Running, name: str) -> float:
    """One sample without labels of the proxy's metrics. OSError or ValueError when it cannot be had."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.admin_port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = re.search(rf"(?m)^{re.escape(name)} (\S+)$", text)
    if found is None:
        raise ValueError(f"no metric {name}")
    return float(found[1])


@dataclass(slots=True)
class Lag:
    """The worst lag of the proxy's loop that was seen once `begin` had been called."""

    worst: float = 0.0
    begun: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        """From here on it counts."""
        self.begun.set()

    def see(self, seconds: float) -> None:
        """A lag was read."""
        if self.begun.is_set():
            self.worst = max(self.worst, seconds)


@contextlib.contextmanager
def watching(proxy: Running) -> Iterator[Lag]:
    """Ask the admin listener for the lag four times a second until the block ends.

    The loop writes it down twice a second, so no value is missed; what the questions cost is part of it.
    """
    lag, over = Lag(), threading.Event()

    def ask() -> None:
        while not over.wait(_POLL):
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                lag.see(metric(proxy, "sse_proxy_event_loop_lag_seconds"))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield lag
    finally:
        over.set()
        thread.join()
