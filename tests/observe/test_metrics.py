"""Metrics: the names of the contract, there from the start, never about a request, true at every moment."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import platform
import subprocess
import time
from collections.abc import Iterator

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from sse_keepalive_proxy import __version__
from sse_keepalive_proxy.build import BUILD
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.programs import require
from tests.support.proxy_process import Metrics, parse_metrics
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    LAST_CHUNK,
    RESET,
    RawUpstream,
    UpstreamConnection,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop, on_loop

SILENT = [GOT_REQUEST, stream_head()]
EVENT = b"data: 1\n\n"
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "other"}
STATES = {"connecting", "waiting", "flowing", "idle", "stalled", "reconnecting", "draining"}
FAMILIES = {"mcp", "gemini-python", "gemini", "anthropic", "openai", "browser", "http"}
REASONS = {
    "client_gone",
    "upstream_end",
    "upstream_reset",
    "upstream_refused",
    "upstream_status",
    "stalled",
    "give_up",
    "client_stalled",
    "event_too_large",
    "max_age",
    "drain",
    "route_removed",
    "unauthorized",
    "internal",
}

# Every metric: its type, and the values of its labels beside `route`.
CONTRACT: dict[str, tuple[str, dict[str, set[str]]]] = {
    "build_info": ("gauge", {}),
    "requests_total": ("counter", {}),
    "requests_in_flight": ("gauge", {}),
    "request_duration_seconds": ("histogram", {}),
    "streams_active": ("gauge", {"state": STATES}),
    "streams_opened_total": ("counter", {"family": FAMILIES}),
    "streams_closed_total": ("counter", {"reason": REASONS}),
    "stream_duration_seconds": ("histogram", {}),
    "upstream_time_to_headers_seconds": ("histogram", {}),
    "time_to_first_byte_seconds": ("histogram", {}),
    "upstream_time_to_first_event_seconds": ("histogram", {}),
    "upstream_silence_seconds": ("histogram", {}),
    "upstream_last_event_timestamp_seconds": ("gauge", {}),
    "upstream_events_total": ("counter", {}),
    "upstream_comments_total": ("counter", {}),
    "upstream_bytes_total": ("counter", {}),
    "downstream_bytes_total": ("counter", {"origin": {"upstream", "synthetic"}}),
    "confirms_sent_total": ("counter", {"form": {"event", "comment"}}),
    "confirm_failures_total": ("counter", {}),
    "pings_sent_total": ("counter", {"form": {"event", "comment"}}),
    "upstream_stalled_streams": ("gauge", {}),
    "upstream_finished_streams": ("gauge", {}),
    "upstream_stalls_total": ("counter", {}),
    "upstream_stall_recoveries_total": ("counter", {}),
    "upstream_stall_seconds": ("histogram", {}),
    "upstream_oldest_stall_seconds": ("gauge", {}),
    "upstream_held_streams": ("gauge", {}),
    "share_groups": ("gauge", {}),
    "share_joins_total": ("counter", {"how": {"asked", "trusted"}}),
    "replayed_events_total": ("counter", {}),
    "replay_gaps_total": ("counter", {"reason": {"too_old", "unknown"}}),
    "upstream_openings_waiting": ("gauge", {"upstream": {"up"}}),
    "upstream_oldest_opening_seconds": ("gauge", {}),
    "upstream_reconnects_total": ("counter", {"result": {"reopened", "failed", "ended"}}),
    "upstream_errors_total": ("counter", {"kind": {"refused", "timeout", "reset", "invalid"}}),
    "upstream_eof_after_first_event_total": ("counter", {}),
    "upstream_eof_without_event_total": ("counter", {}),
    "uninspectable_streams_total": ("counter", {}),
    "streams_rejected_total": ("counter", {"reason": {"max_streams", "max_streams_per_client"}}),
    "streams_limit": ("gauge", {}),
    "quick_tunnel_requests_total": ("counter", {}),
    "config_reloads_total": ("counter", {"result": {"success", "failure"}}),
    "config_last_reload_successful": ("gauge", {}),
    "config_last_reload_success_timestamp_seconds": ("gauge", {}),
    "event_loop_lag_seconds": ("gauge", {}),
    "replay_bytes": ("gauge", {}),
    "bridge_connected": ("gauge", {}),
    "bridge_lost_total": ("counter", {}),
    "bridge_events_total": (
        "counter",
        {"outcome": {"delivered", "filled", "dropped", "missed", "no_subscriber", "invalid"}},
    ),
    "bridge_overflows_total": ("counter", {"memory": {"stream", "replay", "audiences"}}),
    "bridge_positions_lost_total": ("counter", {}),
    "bridge_stream_missing": ("gauge", {}),
    "leave_publishes_total": ("counter", {"result": {"published", "failed"}}),
    "replay_logs_emptied_total": ("counter", {}),
}
OF_THE_INSTANCE = {
    "build_info",
    "streams_limit",
    "config_reloads_total",
    "config_last_reload_successful",
    "config_last_reload_success_timestamp_seconds",
    "event_loop_lag_seconds",
    "replay_bytes",
    "replay_logs_emptied_total",
}


def exposition(proxy: Instance) -> str:
    """What a scrape gives."""
    return generate_latest(proxy.server.metrics.registry).decode()


def families(proxy: Instance) -> dict[str, Metric]:
    """A scrape's families of ours by their name in the contract."""
    found = {}
    for family in text_string_to_metric_families(exposition(proxy)):
        if family.name.startswith("sse_proxy_"):
            name = family.name.removeprefix("sse_proxy_") + ("_total" if family.type == "counter" else "")
            assert name not in found, "a family stands in one piece"
            found[name] = family
    return found


def series(proxy: Instance) -> Iterator[tuple[str, frozenset[tuple[str, str]]]]:
    """Every series there is."""
    yield from parse_metrics(exposition(proxy))


# What is there from the start.


@on_each_loop
async def test_every_metric_is_there_from_the_start_with_its_type_and_all_its_labels_at_0() -> None:
    async with Instance(config("http://127.0.0.1:1")) as proxy:
        found = families(proxy)
        assert {name: family.type for name, family in found.items()} == {
            name: kind for name, (kind, _) in CONTRACT.items()
        }
        for name, (kind, labels) in CONTRACT.items():
            samples = [sample for sample in found[name].samples if "le" not in sample.labels]
            if name in OF_THE_INSTANCE or name == "requests_total":
                continue
            if name in ("bridge_connected", "bridge_lost_total"):  # only routes with a bridge have one
                assert samples == []
                continue
            if "upstream" in labels:
                assert [(sample.labels, sample.value) for sample in samples] == [({"upstream": "up"}, 0)]
                continue
            seen: dict[str, set[str]] = {}
            for sample in samples:
                for label, value in sample.labels.items():
                    seen.setdefault(label, set()).add(value)
                assert sample.value == 0, sample
            assert seen == {"route": {"events", "rest"}, **labels}, name
            each = 2 if kind == "histogram" else 1  # _count and _sum
            for values in labels.values():
                each *= len(values)
            assert len(samples) == 2 * each, name


@on_each_loop
async def test_an_upstream_cannot_add_codes() -> None:
    async def upstream_of_statuses(connection: UpstreamConnection) -> None:
        asked = await connection.next_request()
        await connection.send(response(f"{asked.target[1:]} Odd"))

    odd = {"299": "200", "418": "418", "499": "499", "599": "500", "700": "500", "999": "500"}
    async with RawUpstream(upstream_of_statuses) as upstream, Instance(config(upstream)) as proxy:
        for status in odd:
            async with await proxy.client() as client:
                client.request(f"/{status}")
                assert (await client.wait_response()).status == int(status)
        counted = {
            sample.labels["code"]: sample.value for sample in families(proxy)["requests_total"].samples
        }
        assert counted == {"200": 1, "418": 1, "499": 1, "500": 3}


@on_each_loop
async def test_the_instance_tells_its_version_its_python_its_limit_and_its_lag() -> None:
    async with Instance(config("http://127.0.0.1:1", before="limits: {max_streams: 7}")) as proxy:
        labels = {"version": __version__, "python_version": platform.python_version(), "build": BUILD}
        assert proxy.metric("build_info", **labels) == 1
        assert proxy.metric("streams_limit") == 7
        assert 0 <= proxy.metric("event_loop_lag_seconds") < 30
        assert "process_open_fds" in exposition(proxy)


@on_each_loop
async def test_the_configuration_of_the_start_counts_as_good_and_as_no_reload() -> None:
    before = time.time()
    async with Instance(config("http://127.0.0.1:1")) as proxy:
        assert proxy.metric("config_last_reload_successful") == 1
        assert before - 0.01 <= proxy.metric("config_last_reload_success_timestamp_seconds") <= time.time()
        for result in ("success", "failure"):
            assert proxy.metric("config_reloads_total", result=result) == 0


@on_each_loop
async def test_a_reload_that_fails_leaves_the_time_of_the_last_good_one() -> None:
    async with Instance(config("http://127.0.0.1:1")) as proxy:
        started_at = proxy.metric("config_last_reload_success_timestamp_seconds")
        proxy.server.metrics.reloaded(success=False)
        assert proxy.metric("config_last_reload_successful") == 0
        assert proxy.metric("config_last_reload_success_timestamp_seconds") == started_at
        proxy.server.metrics.reloaded(success=True)
        assert proxy.metric("config_last_reload_successful") == 1
        assert proxy.metric("config_last_reload_success_timestamp_seconds") > started_at
        for result in ("success", "failure"):
            assert proxy.metric("config_reloads_total", result=result) == 1


@on_each_loop
async def test_no_series_tells_when_it_was_created() -> None:
    async with Instance(config("http://127.0.0.1:1")) as proxy:
        assert not [name for name, _ in series(proxy) if name.endswith("_created")]


def test_prometheus_itself_finds_no_fault_with_the_exposition() -> None:
    promtool = require("promtool")
    scraped: list[str] = []

    async def scrape() -> None:
        async with (
            RawUpstream([*SILENT, chunk(EVENT)]) as upstream,
            Instance(config(upstream)) as proxy,
            await proxy.event_source() as client,
        ):
            await client.wait_for(EVENT)
            scraped.append(exposition(proxy))

    on_loop("asyncio", scrape())
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=scraped[0],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Labels never come from a request.


@on_each_loop
async def test_many_paths_methods_and_tokens_make_no_new_series_but_of_known_methods_and_codes() -> None:
    async def answer(connection: UpstreamConnection) -> None:
        request = await connection.next_request()
        if request.target.startswith("/events"):
            await connection.send(stream_head() + chunk(EVENT) + LAST_CHUNK)
        else:
            await connection.send(response("200 OK", b""))

    async with RawUpstream(answer) as upstream, Instance(config(upstream, "reconnect: off")) as proxy:
        before = set(series(proxy))
        for index in range(12):
            for method in ("GET", "PUT", "PROPFIND", "MKCALENDAR"):
                for target in (f"/events?access_token=s3cr3t{index}", f"/s3cr3t{index}/x"):
                    async with await proxy.client() as client:
                        client.request(
                            target,
                            EVENT_SOURCE,
                            f"Authorization: Bearer s3cr3t{index}",
                            f"X-Forwarded-For: 203.0.113.{index}",
                            f"Host: h{index}.example",
                            f"Last-Event-ID: s3cr3t{index}",
                            method=method,
                        )
                        await client.wait_response()
        await proxy.until(lambda: sum(proxy.closed().values()) == 48)
        new = set(series(proxy)) - before
        assert {name for name, _ in new} == {"sse_proxy_requests_total"}
        assert {tuple(sorted(labels)) for _, labels in new} == {
            (("code", "200"), ("method", method), ("route", route))
            for method in ("GET", "PUT", "other")
            for route in ("events", "rest")
        }
        assert "s3cr3t" not in exposition(proxy)
        assert proxy.metric("requests_total", method="other", code="200") == 24


@on_each_loop
async def test_a_request_that_no_route_takes_is_counted_under_none() -> None:
    upstreams = "upstreams: {up: {url: 'http://127.0.0.1:1'}}\n"
    async with Instance(upstreams + "routes: [{name: all, match: {path: /only}, upstream: up}]") as proxy:
        async with await proxy.client() as client:
            client.request("/other", method="REPORT")
            await client.wait_response()
            assert client.response.status == 404
        async with await proxy.client() as client:
            client.send(b"GET /only HTTP/1.1\r\nHost: a b\r\n\r\n")
            await client.wait_response()
            assert client.response.status == 400
        assert proxy.metric("requests_total", route="_none", method="other", code="404") == 1
        assert proxy.metric("requests_total", route="_none", method="other", code="400") == 1


@on_each_loop
async def test_a_code_is_three_digits_whatever_upstream_answers() -> None:
    async with (
        RawUpstream([GOT_REQUEST, response("999 What", b"")]) as upstream,
        Instance(config(upstream)) as proxy,
    ):
        for name in ("/a", "/b"):
            async with await proxy.client() as client:
                client.request(name)
                await client.wait_response()
        upstream.scripts = [[GOT_REQUEST, response("20 Low", b"")]]
        async with await proxy.client() as client:
            client.request("/c")
            await client.wait_response()
            status = client.response.status
        (family,) = (family for name, family in families(proxy).items() if name == "requests_total")
        counted = {sample.labels["code"]: sample.value for sample in family.samples}
        assert counted == {"500": 2, f"{status:03d}": 1}


# Requests.


@on_each_loop
async def test_a_request_is_in_flight_until_it_is_answered_and_then_in_the_duration() -> None:
    async with (
        RawUpstream([GOT_REQUEST, go := asyncio.Event(), response("200 OK", b"")]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/plain")
        await (await upstream.connection()).request()
        assert proxy.metric("requests_in_flight", route="rest") == 1
        assert proxy.metric("request_duration_seconds_count", route="rest") == 0
        go.set()
        await client.wait_response()
        await proxy.until(lambda: proxy.metric("requests_in_flight", route="rest") == 0)
        assert proxy.metric("request_duration_seconds_count", route="rest") == 1
        assert proxy.metric("requests_total", route="rest", method="GET", code="200") == 1


@on_each_loop
async def test_a_stream_is_a_request_but_none_in_flight_and_never_in_the_duration() -> None:
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream)) as proxy:
        async with await proxy.event_source() as client:
            await client.wait_for(b"connection_confirmed")
            await proxy.until(lambda: proxy.metric("requests_in_flight") == 0)
            assert proxy.metric("requests_total", method="GET", code="200") == 1
            assert proxy.metric("stream_duration_seconds_count") == 0
        await proxy.until_closed("client_gone")
        assert proxy.metric("stream_duration_seconds_count") == 1
        assert proxy.metric("request_duration_seconds_count") == 0
        assert proxy.metric("requests_total", method="GET", code="200") == 1


@on_each_loop
async def test_each_kind_of_upstream_error_is_counted_as_what_it_is() -> None:
    for script, kind, status, within in (
        ([GOT_REQUEST], "timeout", 504, "100ms"),
        ([GOT_REQUEST, RESET], "reset", 502, "1m"),
        ([GOT_REQUEST, b"220 smtp ready\r\n\r\n"], "invalid", 502, "1m"),
        (None, "refused", 502, "1m"),
    ):
        async with (
            RawUpstream(script or SILENT) as upstream,
            Instance(config(upstream, f"open_timeout: {within}\nreconnect: off")) as proxy,
        ):
            if script is None:
                upstream.refuse()
            async with await proxy.event_source() as client:
                await client.wait_response()
                assert client.response.status == status
            for each in ("timeout", "reset", "invalid", "refused"):
                assert proxy.metric("upstream_errors_total", kind=each) == (each == kind)
            assert proxy.opened() == 0
            assert len(proxy.server.streams) == 0


@on_each_loop
async def test_a_stream_that_breaks_off_is_an_upstream_error_too() -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT), go := asyncio.Event(), RESET]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(EVENT)
        go.set()
        await proxy.until_closed("upstream_reset")
        assert proxy.metric("upstream_errors_total", kind="reset") == 1
        assert proxy.metric("upstream_eof_after_first_event_total") == 0


# Streams.


@on_each_loop
async def test_a_stream_is_counted_in_one_state_at_a_time() -> None:
    async with (
        RawUpstream(
            [GOT_REQUEST, answer := asyncio.Event(), stream_head(), speak := asyncio.Event(), chunk(EVENT)]
        ) as upstream,
        Instance(config(upstream, "keepalive: {interval: 500ms}\nstall: {after: 1s}")) as proxy,
        await proxy.event_source() as client,
    ):

        def states() -> set[str]:
            found = {state: proxy.metric("streams_active", state=state) for state in STATES}
            assert sum(found.values()) == 1, found
            return {state for state, count in found.items() if count}

        seen = []
        await (await upstream.connection()).request()
        for step, state in (
            (None, "connecting"),
            (answer, "waiting"),
            (speak, "flowing"),
            (None, "idle"),
            (None, "stalled"),
        ):
            if step is not None:
                step.set()
            await proxy.until(lambda state=state: states() == {state})
            seen.append(state)
        assert client.ending is None
        assert proxy.metric("streams_active", route="rest", state="idle") == 0


@on_each_loop
async def test_a_stream_whose_last_bytes_wait_for_its_client_is_draining() -> None:
    async with (
        RawUpstream([*SILENT, chunk(b"data: " + b"x" * 900_000 + b"\n\n") * 12, LAST_CHUNK]) as upstream,
        Instance(config(upstream, "max_buffer: 64MiB")) as proxy,
        await proxy.event_source(receive_buffer=4096, read_size=4096) as client,
    ):
        await client.wait_for(b"connection_confirmed")
        client.pause()
        await proxy.until(lambda: proxy.metric("streams_active", state="draining") == 1)
        assert proxy.closed() == {"upstream_end": 1}
        events = proxy.metric("upstream_events_total")
        assert events == 12
        client.abort()
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        assert proxy.metric("upstream_events_total") == events
        assert proxy.metric("streams_active", state="draining") == 0


@on_each_loop
async def test_bytes_events_comments_and_pings_are_counted_exactly() -> None:
    body = b": one\n\ndata: 1\n\nevent: x\ndata: 2\nid: 3\n\n:two\r\n\r\n"
    async with (
        RawUpstream([*SILENT, chunk(body), go := asyncio.Event(), chunk(EVENT), LAST_CHUNK]) as upstream,
        Instance(config(upstream, "keepalive: {interval: 50ms, form: event}\nreconnect: off")) as proxy,
        await proxy.event_source() as client,
    ):
        await proxy.until(lambda: proxy.metric("pings_sent_total", form="event") >= 2)
        go.set()
        await client.wait_response()
        await proxy.until_closed("upstream_end")
        pings = client.body.count(b"event: ping\n")
        assert proxy.metric("pings_sent_total", form="event") == pings
        assert proxy.metric("pings_sent_total", form="comment") == 0
        assert proxy.metric("upstream_events_total") == 3
        assert proxy.metric("upstream_comments_total") == 2
        assert proxy.metric("upstream_bytes_total") == len(body + EVENT)
        assert proxy.metric("downstream_bytes_total", origin="upstream") == len(body + EVENT)
        assert proxy.metric("downstream_bytes_total", origin="synthetic") == len(client.body) - len(
            body + EVENT
        )
        assert proxy.metric("upstream_time_to_first_event_seconds_count") == 1
        assert proxy.metric("time_to_first_byte_seconds_count") == 1


@on_each_loop
async def test_an_upstream_that_ends_after_its_first_event_is_counted() -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT), LAST_CHUNK]) as upstream,
        Instance(config(upstream)) as proxy,
    ):
        for events in (1, 2):
            upstream.scripts = [[*SILENT, chunk(EVENT * events), LAST_CHUNK]]
            async with await proxy.event_source() as client:
                await client.wait_response()
        await proxy.until_closed("upstream_end", 2)
        assert proxy.metric("upstream_eof_after_first_event_total") == 1


@on_each_loop
async def test_no_counter_dips_or_jumps_while_streams_close() -> None:
    count, each = 12, 5
    final = {
        "upstream_events_total": count * each,
        "upstream_bytes_total": count * each * len(EVENT),
        "confirms_sent_total": count,
    }

    async with RawUpstream([*SILENT, chunk(EVENT * each)]) as upstream, Instance(config(upstream)) as proxy:
        scrapes: list[Metrics] = []

        async def watch() -> None:
            while True:
                scrapes.append(parse_metrics(exposition(proxy)))
                await asyncio.sleep(0)

        watcher = asyncio.create_task(watch())
        clients: list[RawClient] = [await proxy.event_source() for _ in range(count)]
        for client in clients:
            await client.wait_for(EVENT * each)
        for index, client in enumerate(clients):
            await (client.close() if index % 2 else asyncio.sleep(0))
            if not index % 2:
                upstream.connections[index].reset()
        await proxy.until(lambda: sum(proxy.closed().values()) == count)
        await asyncio.gather(*(client.close() for client in clients))
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        scrapes.append(parse_metrics(exposition(proxy)))

    counters = {"sse_proxy_" + name for name, (kind, _) in CONTRACT.items() if kind == "counter"}
    assert len(scrapes) > count
    for earlier, later in itertools.pairwise(scrapes):
        for key, value in earlier.items():
            if key[0] in counters or key[0].endswith(("_count", "_bucket")):
                assert later[key] >= value, key
    for name, total in final.items():
        values = [
            sum(value for (found, _), value in scrape.items() if found == f"sse_proxy_{name}")
            for scrape in scrapes
        ]
        assert max(values) == values[-1] == total, name  # never beyond the truth, either


# Upstream's life.


@on_each_loop
async def test_the_last_event_is_moved_by_upstreams_events_only() -> None:
    steps = [
        *SILENT,
        comment := asyncio.Event(),
        chunk(b": still here\n\n"),
        event := asyncio.Event(),
        chunk(EVENT),
    ]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, "keepalive: {interval: 50ms}")) as proxy,
    ):

        def last() -> float:
            return proxy.metric("upstream_last_event_timestamp_seconds")

        async with await proxy.event_source() as client:
            await client.wait_for(b":ping")
            assert last() == 0  # neither by headers nor by what we say ourselves
            comment.set()
            await client.wait_for(b": still here")
            assert last() == 0
            before = time.time()
            event.set()
            await client.wait_for(EVENT)
            told = last()
            assert before - 0.01 <= told <= time.time() + 0.01
            pings = client.body.count(b":ping")
            await client.wait_for(lambda client: client.body.count(b":ping") > pings + 1)
            assert last() == told  # to the last digit: Prometheus counts changes
        await proxy.until_closed("client_gone")
        assert last() == told
        assert proxy.metric("upstream_last_event_timestamp_seconds", route="rest") == 0
        # An older stream that ends later does not take it back.
        async with await proxy.event_source() as client:
            await client.wait_for(EVENT)
            assert last() > told
            newer = last()
        await proxy.until_closed("client_gone", 2)
        assert last() == newer


@on_each_loop
async def test_a_stall_is_1_in_the_gauge_and_0_again_after_an_event() -> None:
    steps = [
        *SILENT,
        comment := asyncio.Event(),
        chunk(b": no event\n\n"),
        event := asyncio.Event(),
        chunk(EVENT),
    ]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, "keepalive: {interval: 50ms}\nstall: {after: 400ms}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        assert proxy.metric("upstream_stalled_streams") == 0
        assert proxy.metric("upstream_oldest_stall_seconds") == 0
        await proxy.until(lambda: proxy.metric("upstream_stalled_streams") == 1)
        oldest = proxy.metric("upstream_oldest_stall_seconds")
        assert oldest >= 0.399
        comment.set()
        await client.wait_for(b": no event")
        assert proxy.metric("upstream_stalled_streams") == 1  # a comment is no sign of life by default
        await proxy.until(lambda: proxy.metric("upstream_oldest_stall_seconds") > oldest)
        assert proxy.metric("upstream_stall_recoveries_total") == 0
        event.set()
        await client.wait_for(EVENT)
        assert proxy.metric("upstream_stalled_streams") == 0
        assert proxy.metric("upstream_oldest_stall_seconds") == 0
        assert proxy.metric("upstream_stalls_total") == 1
        assert proxy.metric("upstream_stall_recoveries_total") == 1
        assert proxy.metric("upstream_stall_seconds_count") == 1
        assert proxy.metric("upstream_stall_seconds_sum") >= oldest


@on_each_loop
async def test_a_stalled_stream_that_closes_no_longer_counts_as_stalled() -> None:
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream, "stall: {after: 50ms}")) as proxy:
        async with await proxy.event_source(), await proxy.event_source():
            await proxy.until(lambda: proxy.metric("upstream_stalled_streams") == 2)
        await proxy.until_closed("client_gone", 2)
        assert proxy.metric("upstream_stalled_streams") == 0
        assert proxy.metric("upstream_oldest_stall_seconds") == 0
        assert proxy.metric("upstream_stall_recoveries_total") == 0


@on_each_loop
async def test_silences_count_as_they_end_from_one_interval_up() -> None:
    steps = [
        *SILENT,
        chunk(EVENT),
        quick := asyncio.Event(),
        chunk(EVENT),
        late := asyncio.Event(),
        chunk(EVENT),
    ]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, "keepalive: {interval: 600ms}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(EVENT)
        quick.set()
        await client.wait_for(EVENT * 2)
        assert proxy.metric("upstream_silence_seconds_count") == 0
        await client.wait_for(b":ping")
        assert proxy.metric("upstream_silence_seconds_count") == 0  # it has not ended
        late.set()
        await client.wait_for(lambda client: len(client.events) == 4)
        assert proxy.metric("upstream_silence_seconds_count") == 1
        assert 0.599 <= proxy.metric("upstream_silence_seconds_sum") < 30


@on_each_loop
async def test_a_refused_stream_is_counted_by_its_reason_and_opens_nothing() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before="limits: {max_streams: 1}")) as proxy,
        await proxy.event_source() as first,
    ):
        await first.wait_for(b"connection_confirmed")
        for _ in range(3):
            async with await proxy.event_source() as client:
                await client.wait_response()
        assert proxy.metric("streams_rejected_total", reason="max_streams") == 3
        assert proxy.metric("requests_total", method="GET", code="503") == 3
        assert proxy.opened() == 1
        assert proxy.closed() == {}
