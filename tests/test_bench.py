"""The benchmark: what it makes of readings, what its generator calls a fault, one short run of it all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench import alone, plot, report
from bench.builds import InstallFailed, install
from bench.comparison import Outcome, Test, side_by_side
from bench.figures import Figure, Measured, Pair, median, summarise, summarise_base
from bench.load import Load, build
from bench.machine import ROOT, choose_cores
from bench.peers import Stage, find
from bench.processes import on_core, origin_port
from bench.report import BEGIN, END, Results, insert, markdown
from tests.support.programs import require

COST = Figure("cost", "CPU per event", "µs")
IDLE = Figure("idle", "CPU while idle", "%", 2, ratio=False)


def pair(base: float | None, own: float, *, faults: int = 0, idle: float = 0.0) -> Pair:
    before = None if base is None else Measured({"cost": base, "idle": 0.0})
    return Pair(before, Measured({"cost": own, "idle": idle}, faults))


def outcome(**pairs: list[Pair]) -> Outcome:
    test = Test("closed", "one in flight", (), (COST, IDLE), lambda _: {})
    return Outcome(test, pairs, {})


def results(*outcomes: Outcome, **more: object) -> Results:
    found = Results("python -m bench", "2026-01-02", {"kernel": "Linux 6"}, {"nginx": "1.22.1"})
    return dataclasses.replace(found, outcomes=list(outcomes), **more)


# Figures.


def test_the_ratio_is_the_median_of_the_pairs_and_not_the_ratio_of_the_medians() -> None:
    # A machine that is three times slower for one pair changes no ratio.
    summary = summarise([pair(10, 12), pair(30, 36), pair(10, 13)], [COST])
    assert summary.ratios["cost"] == (pytest.approx(1.2), pytest.approx(1.2), pytest.approx(1.3))
    assert summary.values["cost"] == 13
    assert summary.rounds == 3


def test_a_base_of_nothing_has_no_ratio() -> None:
    assert summarise([pair(0, 5)], [COST]).ratios == {}
    assert summarise([pair(None, 5)], [COST]).ratios == {}
    assert summarise([pair(1, 5, idle=2.0)], [IDLE]).ratios == {}


def test_faults_are_added_up_over_all_rounds() -> None:
    assert summarise([pair(1, 1, faults=2), pair(1, 1, faults=3)], [COST]).faults == 5


def test_the_base_is_summarised_over_the_readings_beside_all_the_others() -> None:
    base = summarise_base([pair(10, 1), pair(20, 1), pair(30, 1)], [COST])
    assert base is not None
    assert base.values["cost"] == 20
    assert base.ratios["cost"] == (1.0, 1.0, 1.0)
    assert base.rounds == 3
    assert summarise_base([pair(None, 1)], [COST]) is None


def test_there_is_no_median_of_nothing() -> None:
    assert median([3, 1, 2]) == 2
    with pytest.raises(ValueError, match="no value"):
        median([])


# The report.


def test_the_page_keeps_what_stands_around_its_markers() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert insert(page, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert insert(insert(page, "new"), "newer") == insert(page, "newer")


@pytest.mark.parametrize("page", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_page_without_its_markers_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        insert(page, "new")


def test_the_page_of_this_project_has_its_markers() -> None:
    assert insert((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), "x")


def test_the_table_shows_everybody_with_ratio_range_and_faults() -> None:
    text = markdown(results(outcome(haproxy=[pair(10, 9)], proxy=[pair(10, 12), pair(10, 14)])), plot=False)
    assert "| nginx | 10.0 | 1.00 | 0.00 | 0 | 3 |" in text
    assert "| HAProxy | 9.0 | 0.90 | 0.00 | 0 | 1 |" in text
    assert "| **sse-keepalive-proxy** | 13.0 | 1.30 (1.20 to 1.40) | 0.00 | 0 | 2 |" in text
    assert "- kernel: Linux 6" in text
    assert "- peers: nginx 1.22.1" in text
    assert report.PLOT not in text


def test_what_is_lost_is_said() -> None:
    text = markdown(results(outcome(haproxy=[pair(10, 9)], proxy=[pair(10, 18)])), plot=True)
    assert "- CPU per event (closed): 1.80 times nginx, 2.00 times HAProxy" in text
    assert f"({report.PLOT})" in text


def test_both_builds_are_shown_and_the_first_is_the_one_that_is_compared() -> None:
    found = results(outcome(haproxy=[pair(10, 9)], compiled=[pair(10, 18)], interpreted=[pair(10, 27)]))
    text = markdown(found, plot=False)
    assert "| **sse-keepalive-proxy, compiled** | 18.0 | 1.80 | 0.00 | 0 | 1 |" in text
    assert "| **sse-keepalive-proxy, interpreted** | 27.0 | 2.70 | 0.00 | 0 | 1 |" in text
    lost = text.partition("### Where this proxy is behind")[2]
    assert lost.count("\n- ") == 1
    assert "- CPU per event (closed): 1.80 times nginx, 2.00 times HAProxy" in lost
    (panel,) = plot.panels(found)
    assert [bar.colour == plot._OWN for bar in panel.bars] == [False, False, True, True]


def test_faults_of_each_build_are_faults_of_ours() -> None:
    found = outcome(
        haproxy=[pair(1, 1, faults=1)],
        compiled=[pair(1, 1, faults=2)],
        interpreted=[pair(1, 1, faults=3)],
    )
    assert results(found).own_faults == 5


def test_what_is_won_is_not_listed_as_lost() -> None:
    assert "behind" not in markdown(results(outcome(proxy=[pair(10, 8)])), plot=False)


def test_who_is_left_out_is_named_with_the_reason() -> None:
    shown = results(dataclasses.replace(outcome(), left_out={"envoy": "it ended with 1"}))
    text = markdown(dataclasses.replace(shown, left_out={"caddy": "it is not on this machine"}), plot=False)
    assert "Envoy is left out: it ended with 1" in text
    assert "- Caddy left out: it is not on this machine" in text


def test_the_tests_of_this_proxy_alone_are_shown_too() -> None:
    shown = results(
        growth=[alone.Growth(100, 12.5, 600, 5.25, 0.5, 0)],
        routes=[alone.Routes(1_000, 700, 0)],
        full=alone.Full(400, 1_000, 200, 199, 0.1, 3.0, 1_200, 1, "status 1"),
        storms=[alone.Storm(5_000, 1.0, 1.5, 0.9, 0.25, 2.5, 5_000, 0, 2)],
    )
    text = markdown(shown, plot=False)
    assert "| 100 | 12.5 | 600 | 5.2 | 0.50 | 0 |" in text
    assert "| 1,000 | 700 | 0 |" in text
    assert "room for 400 streams" in text
    assert "Faults: status 1." in text
    assert "| 5,000 | 1.50 | 0.90 | 0.250 | 2.50 | 5,000 | 0 | 2 |" in text
    assert shown.own_faults == 3


def test_bars_are_sorted_and_a_panel_of_nothing_is_not_drawn() -> None:
    found = plot.panels(results(outcome(haproxy=[pair(10, 9)], proxy=[pair(10, 12)])))
    assert [panel.title for panel in found] == ["CPU per event, times nginx (closed)"]
    assert [bar.label for bar in found[0].bars] == ["HAProxy", "nginx", "sse-keepalive-proxy"]


# Who is measured, and how.


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy", "envoy", "proxy"])
def test_a_configuration_is_filled_in_wholly(name: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, 9_999, choose_cores(), ROOT, {}, {})
    fields = {"port": 1, "admin": 2, "reconnect": "always", "routes": "", "origin": 9_999}
    text = stage._write(name, **fields).read_text()
    assert not re.search(r"@\w+@", text)
    assert "9999" in text


def test_every_test_has_a_name_of_its_own_and_quick_ones_are_the_same() -> None:
    assert list(side_by_side(quick=True)) == list(side_by_side(quick=False))
    assert set(side_by_side(quick=True)).isdisjoint(alone.ALONE)


def test_what_cannot_be_installed_is_said_with_the_last_words_of_pip(tmp_path: Path) -> None:
    with pytest.raises(InstallFailed, match=r"(?s)pip install .*nothing-here.*ended with 1:.*"):
        install(tmp_path / "nothing-here", tmp_path, lambda _: None)


def test_what_is_started_is_pinned_and_the_starter_is_not() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    with on_core(core):
        done = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"],
            capture_output=True,
            text=True,
        )
    assert done.stdout.strip() == str({core})
    assert os.sched_getaffinity(0) == before


def test_the_port_of_the_origin_is_none_that_the_kernel_hands_out() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert origin_port() < low


# The generator: what it calls a fault. A relay of our own does mischief to the tenth event of a stream.

FRAME = len(b"c8\r\n") + 200 + len(b"\r\n")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("gcc")
    return build(tmp_path_factory.mktemp("generator"))["load"]


@dataclasses.dataclass(frozen=True)
class Mischief:
    """Stands where a proxy would."""

    port: int

    def pids(self) -> list[int]:
        return [os.getpid()]


@contextlib.contextmanager
def mischief(origin: int, change: Callable[[bytes, bytes], bytes | None]) -> Iterator[Mischief]:
    """A relay for one client. `change` gets the tenth event's chunk and the next; None ends the stream."""

    def relay() -> None:
        client, _ = listener.accept()
        with (
            client,
            socket.create_connection(("127.0.0.1", origin)) as server,
            server.makefile("rb") as answer,
        ):
            server.sendall(client.recv(4096))
            with contextlib.suppress(OSError):
                while (line := answer.readline()) != b"\r\n":
                    client.sendall(line)
                client.sendall(b"\r\n" + answer.read(10))  # the comment that comes with the head
                for number in range(1, 10_000):
                    frame = answer.read(FRAME)
                    if number == 10:
                        changed = change(frame, answer.read(FRAME))
                        if changed is None:
                            return
                        frame = changed
                    if not frame:
                        return
                    client.sendall(frame)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=relay)
        thread.start()
        try:
            yield Mischief(listener.getsockname()[1])
        finally:
            thread.join(10)
    assert not thread.is_alive()


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda one, two: one + two, None),
        (lambda _, two: two, "disordered"),
        (lambda one, two: one + one + two, "disordered"),
        (lambda one, two: two + one, "disordered"),
        (lambda one, two: one.replace(b"data: 00000", b"data: 00001") + two, "malformed"),
        (lambda one, two: chunk(one[4:104] + b"\n" + one[105:-2]) + two, "malformed"),
        (lambda one, two: chunk(one[4:104]) + chunk(b":ping\n\n") + chunk(one[104:-2]) + two, "malformed"),
        (lambda one, two: one + chunk(b"event: else\n\n") + two, "malformed"),
        (lambda one, two: one.replace(b"c8\r\n", b"c7\r\n", 1) + two, "malformed"),
        (lambda one, two: one + chunk(b":ping\n\n") + two, None),
        (lambda one, two: one + chunk(two[4:54]) + chunk(two[54:-2]), None),
        (lambda one, two: one + b"0\r\n\r\n", "ended"),
        (lambda *_: None, "ended"),
    ],
    ids=[
        "nothing",
        "lost",
        "doubled",
        "swapped",
        "of another stream",
        "changed",
        "ping inside",
        "something between",
        "wrong chunk",
        "ping between",
        "cut into chunks",
        "ended",
        "broken off",
    ],
)
def test_the_generator_counts_what_must_not_happen_and_nothing_else(
    generator: Path, change: Callable[[bytes, bytes], bytes | None], fault: str | None
) -> None:
    load = Load(generator, origin_port(), min(os.sched_getaffinity(0)))
    with mischief(load.origin, change) as relay:
        # The fault comes in the first hundredth of a second; where there is none, the rest counts.
        seconds = 0.15 if fault else 0.5
        flags = ("--streams", 1, "--rate", 1000, "--warm", 0.01, "--seconds", seconds)
        reading = load.run("rate", relay, *flags)
    if fault is None:
        assert reading.fault_kinds == ""
        assert reading.events > 20
    else:
        assert reading.faults[fault] > 0


def test_the_generator_counts_a_wrong_status(generator: Path) -> None:
    load = Load(generator, origin_port(), min(os.sched_getaffinity(0)))

    def refuse() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(4096)
            client.sendall(b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse)
        thread.start()
        flags = ("--streams", 1, "--warm", 0.01, "--seconds", 0.05)
        reading = load.run("rate", Mischief(listener.getsockname()[1]), *flags)
        thread.join(10)
    assert reading.faults["status"] == 1


def test_a_short_run_writes_a_table_without_a_fault(tmp_path: Path) -> None:
    require("gcc")
    raw = tmp_path / "raw.json"
    command = [sys.executable, "-m", "bench", "--quick", "--tests", "closed", "--peers", "nginx"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--json", str(raw)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert "### closed: one event in flight on each of 200 streams" in page
    assert re.search(r"(?m)^\| \*\*sse-keepalive-proxy\*\* \| [\d.]+ \| .* \| 0 \| 1 \|$", page)
    if find("nginx"):
        assert re.search(r"(?m)^\| nginx \| [\d.]+ \| 1\.00 \| 0 \| 1 \|$", page)
    assert str(tmp_path) not in page
    pairs = json.loads(raw.read_text())["pairs"]["closed"]
    assert [one["own"]["faults"] for one in pairs["proxy"]] == [0]
    assert (tmp_path / "performance.png").exists() == bool(find_spec("matplotlib"))
