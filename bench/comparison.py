"""The tests that this proxy and its peers take side by side."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bench.figures import Figure, Measured, Pair, Values
from bench.load import Load, LoadFailed, Reading
from bench.peers import BASE, Stage
from bench.processes import Running, StartFailed

__all__ = ["Outcome", "Test", "compare", "side_by_side"]

_SETTLE = 0.3
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Test:
    """One test: how the generator is told to do it, and what is read off.

    `fresh`: a process of its own for each reading. `direct`: the generator also asks its own origin, without
    any proxy, and that latency is taken off.
    """

    __test__ = False  # not pytest's

    name: str
    title: str
    flags: tuple[object, ...]
    figures: tuple[Figure, ...]
    read: Callable[[Reading], Values]
    fresh: bool = False
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """All pairs of one test by peer, and why somebody is missing."""

    test: Test
    pairs: Mapping[str, Sequence[Pair]]
    left_out: Mapping[str, str]


_PER_EVENT = Figure("cpu_per_event_us", "CPU per event", "µs")


def side_by_side(*, quick: bool) -> dict[str, Test]:
    """The tests by name; quick ones show that everything works, and measure little."""
    window = ("--warm", 0.2, "--seconds", 0.4) if quick else ("--warm", 0.5, "--seconds", 1.6)
    streams, hold, rate = (200, 1, 1000) if quick else (5000, 16.5, 5000)
    tests = (
        Test(
            "closed",
            "one event in flight on each of 200 streams",
            ("--streams", 200, *window),
            (_PER_EVENT,),
            _per_event,
        ),
        Test(
            "rate",
            f"{rate:,} events a second over 200 streams",
            ("--streams", 200, "--rate", rate, *window),
            (
                _PER_EVENT,
                Figure("p50_us", "latency added, p50", "µs", 0),
                Figure("p99_us", "latency added, p99", "µs", 0),
            ),
            lambda r: {**_per_event(r), "p50_us": r.p50_us, "p99_us": r.p99_us},
            direct=True,
        ),
        Test(
            "idle",
            f"{streams:,} open streams without events, for {hold:g} s",
            ("--streams", streams, "--seconds", hold),
            (
                Figure("kib_per_stream", "memory per stream", "KiB"),
                Figure("idle_cpu_percent", "CPU while idle", "% of a core", 2, ratio=False),
            ),
            partial(_idle, streams=streams),
            fresh=True,
        ),
        Test(
            "churn",
            "32 clients that open, take the first byte, leave and come back",
            ("--streams", 32, "--at-once", 32, *window),
            (
                Figure("cpu_per_open_us", "CPU per open", "µs", 0),
                Figure("left_open", "still open upstream 1 s later", "streams", 0, ratio=False),
            ),
            _per_open,
        ),
        Test(
            "blast",
            "64 KiB writes as fast as they are taken on 4 streams",
            ("--streams", 4, *window),
            (Figure("cpu_per_gb_s", "CPU per GB", "s", 2),),
            lambda r: {"cpu_per_gb_s": r.cpu_s / r.bytes * 1e9} if r.bytes else {},
        ),
    )
    return {test.name: test for test in tests}


def _per_event(reading: Reading) -> Values:
    return {"cpu_per_event_us": reading.cpu_s / reading.events * 1e6} if reading.events else {}


def _per_open(reading: Reading) -> Values:
    if not reading.events:
        return {}
    return {"cpu_per_open_us": reading.cpu_s / reading.events * 1e6, "left_open": reading.left}


def _idle(reading: Reading, streams: int) -> Values:
    return {
        "kib_per_stream": (reading.rss_after_kib - reading.rss_before_kib) / streams,
        "idle_cpu_percent": reading.cpu_s / reading.seconds * 100,
    }


def compare(test: Test, names: Sequence[str], rounds: int, stage: Stage, load: Load, say: Say) -> Outcome:
    """Do `rounds` rounds with each of `names`, and before each reading one of the base, if that is there."""
    base = BASE in stage.programs
    pairs: dict[str, list[Pair]] = {}
    left_out: dict[str, str] = {}
    for name in names:
        say(f"{test.name}: {name}")
        try:
            pairs[name] = _rounds(test, name, rounds, stage, load, base=base)
        except (StartFailed, LoadFailed) as error:
            left_out[name] = str(error)
            say(f"{test.name}: {name} left out: {error}")
    return Outcome(test, pairs, left_out)


def _rounds(test: Test, name: str, rounds: int, stage: Stage, load: Load, *, base: bool) -> list[Pair]:
    found = []
    if test.fresh:
        for _ in range(rounds):
            with contextlib.ExitStack() as stack:
                before = _take(test, stack.enter_context(stage.run(BASE)), load) if base else None
            with stage.run(name) as running:
                found.append(Pair(before, _take(test, running, load)))
        return found
    with _both(name, stage, base=base) as (other, running):
        for _ in range(rounds):
            bare = load.run(test.name, None, *test.flags) if test.direct else None
            before = _take(test, other, load, bare) if other else None
            found.append(Pair(before, _take(test, running, load, bare)))
    return found


@contextlib.contextmanager
def _both(name: str, stage: Stage, *, base: bool) -> Iterator[tuple[Running | None, Running]]:
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(stage.run(BASE)) if base else None
        yield other, stack.enter_context(stage.run(name))


def _take(test: Test, running: Running, load: Load, bare: Reading | None = None) -> Measured:
    reading = load.run(test.name, running, *test.flags)
    time.sleep(_SETTLE)  # connections are let go of behind the last one
    values = test.read(reading)
    if bare is not None:
        values |= {key: values[key] - getattr(bare, key) for key in ("p50_us", "p99_us")}
    return Measured(values, reading.fault_count)
