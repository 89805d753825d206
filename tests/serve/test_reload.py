"""A configuration that is read anew: when, what takes effect, what is kept, and what is said."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import pickle
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import sse_keepalive_proxy.serve.watch as watching
from sse_keepalive_proxy.config import Loaded, Overrides, Settings, load
from sse_keepalive_proxy.errors import ConfigurationError, Problem
from sse_keepalive_proxy.gateway.app import Proxy
from sse_keepalive_proxy.gateway.state import ReadyRoute
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.serve.reload import Reloader
from sse_keepalive_proxy.serve.server import Server
from sse_keepalive_proxy.serve.source import Source
from tests.config.keys import ED25519
from tests.support.clock import ManualClock
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, RawUpstream, chunk, response, stream_head
from tests.support.running import on_each_loop, on_loop

NOWHERE = "http://127.0.0.1:1"
SILENT = [GOT_REQUEST, stream_head()]
HELD = "reconnect: {when: always}"
"""An unfinished block of upstream is kept back for ever, and not for a second: a reload may take longer."""
BAD = config(NOWHERE, "keepalive: {interval: 15}").replace("/events", "events")


class Told:
    """A reloader whose clock is moved by hand, with the configurations that it has put in force."""

    def __init__(
        self,
        path: Path,
        text: str | None = None,
        environ: dict[str, str] | None = None,
        flags: Overrides | None = None,
    ) -> None:
        self.path, self.clock = path, ManualClock()
        path.write_text(config(NOWHERE) if text is None else text)
        environ, flags = environ or {}, flags or Overrides()
        source = Source(path, environ=environ, overrides=flags)
        self.in_force = load(path, environ=environ, overrides=flags).settings
        self.adopted: list[Settings] = []
        self.refuses: Exception | None = None
        self.metrics = Metrics(Registry(1, None), self.clock)
        self.reloader = Reloader(
            source,
            in_force=lambda: self.in_force,
            adopt=self._adopt,
            metrics=self.metrics,
            later=self.clock.call_later,  # type: ignore[arg-type]
            read=self._read,
        )
        self.reading: asyncio.Event | None = None
        """What a reading waits for before it begins."""

    async def _read(self, source: Source, log_format: str) -> Loaded:
        if self.reading is not None:
            await self.reading.wait()
        return source.load()

    async def _adopt(self, settings: Settings) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.in_force = settings
        self.adopted.append(settings)

    def write(self, text: str) -> None:
        self.path.write_text(text)

    async def start(self) -> None:
        self.reloader.start()
        await self.settled()

    async def reload(self) -> None:
        self.reloader.reload()
        await self.settled()

    async def advance(self, seconds: float) -> None:
        """Let time pass; each timer's work is done before the next one runs."""
        until = self.clock.now + seconds
        while (due := self.clock.next_timer()) is not None and due <= until:
            self.clock.advance_to(due)
            await self.settled()
        self.clock.advance_to(until)

    async def settled(self) -> None:
        while self.reloader._task is not None:
            await asyncio.wait([self.reloader._task])

    def results(self) -> tuple[float, float, float]:
        """Successes, failures, and whether the last one was a success."""
        value = self.metrics.registry.get_sample_value
        counted = [value("sse_proxy_config_reloads_total", {"result": r}) for r in ("success", "failure")]
        last = value("sse_proxy_config_last_reload_successful")
        assert None not in (*counted, last)
        return (*counted, last)  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def _every_line(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO)
    yield
    gc.unfreeze()  # what a reload has spared from the collector


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "sse_keepalive_proxy.config"
    ]


def fields(caplog: pytest.LogCaptureFixture, start: str) -> dict[str, object]:
    """The fields of the newest line that begins so."""
    (*_, found) = (record for record in caplog.records if record.getMessage().startswith(start))
    return dict(found.__dict__["fields"])


# When.


@on_each_loop
async def test_a_change_of_the_file_takes_effect_at_the_second_look(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    await told.start()
    told.write(config(NOWHERE, "keepalive: {interval: 3s}"))
    await told.advance(1.5)
    assert told.adopted == []
    await told.advance(1.0)
    (adopted,) = told.adopted
    assert adopted.routes[0].stream is not None
    assert adopted.routes[0].stream.policy.keepalive is not None
    assert adopted.routes[0].stream.policy.keepalive.interval == 3
    await told.advance(10)
    assert (len(told.adopted), told.results()) == (1, (1, 0, 1))


@on_each_loop
async def test_a_change_between_the_first_reading_and_the_start_is_not_missed(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    told.write(config(NOWHERE, "keepalive: {interval: 3s}"))
    await told.start()
    await told.advance(3)
    assert len(told.adopted) == 1


@on_each_loop
async def test_a_change_that_was_reloaded_on_request_is_not_reloaded_again(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    await told.start()
    told.write(config(NOWHERE, "max_event: 2MiB"))
    await told.reload()
    await told.advance(5)
    assert told.results() == (1, 0, 1)


@on_each_loop
async def test_without_watch_only_asking_helps_until_watch_is_turned_on(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml", config(NOWHERE, before="watch: false"))
    await told.start()
    told.write(config(NOWHERE, "max_event: 2MiB", before="watch: false"))
    assert told.clock.next_timer() is None
    await told.reload()
    assert len(told.adopted) == 1
    assert told.clock.next_timer() is None
    told.write(config(NOWHERE))
    await told.reload()
    told.write(config(NOWHERE, "max_event: 3MiB"))
    await told.advance(3)
    assert len(told.adopted) == 3


@on_each_loop
async def test_when_watch_is_turned_off_polling_stops(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    await told.start()
    told.write(config(NOWHERE, before="watch: false"))
    await told.advance(3)
    assert (len(told.adopted), told.clock.next_timer()) == (1, None)


@on_each_loop
async def test_however_often_it_reloads_there_is_one_timer(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    await told.start()
    for index in range(50):
        told.write(BAD if index % 2 else config(NOWHERE, f"max_event: {index + 1}MiB"))
        await told.reload()
    assert [timer.is_cancelled for timer in told.clock._timers] == [False]
    assert told.results() == (25, 25, 0)


@on_each_loop
async def test_a_file_that_the_configuration_names_counts_too(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(ED25519)
    identity = f"identity: {{from: 'query:access_token', verify: jwt, public_key_file: {key}}}"
    told = Told(tmp_path / "config.yaml", config(NOWHERE, identity))
    await told.start()
    key.write_bytes(ED25519 + b"\n")
    await told.advance(3)
    assert told.results() == (1, 0, 1)
    told.write(config(NOWHERE))
    await told.advance(3)
    key.unlink()  # nobody names it any more
    await told.advance(3)
    assert told.results() == (2, 0, 1)
    key.write_bytes(ED25519)
    told.write(config(NOWHERE, identity))
    await told.advance(3)
    key.write_bytes(ED25519 + b"\n\n")  # it is named again
    await told.advance(3)
    assert told.results() == (4, 0, 1)


@on_each_loop
async def test_a_request_before_the_start_reloads_at_the_start(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    await told.reload()
    assert told.results() == (0, 0, 1)
    await told.start()
    assert told.results() == (1, 0, 1)


@on_each_loop
async def test_while_it_drains_nothing_is_reloaded_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(tmp_path / "config.yaml")
    await told.start()
    await told.reloader.stop()
    assert told.clock.next_timer() is None
    told.write(config(NOWHERE, "max_event: 2MiB"))
    await told.reload()
    assert (told.adopted, told.results()) == ([], (0, 0, 1))
    assert lines(caplog) == [("INFO", "the configuration is not reloaded: the proxy is draining")]


@on_each_loop
async def test_without_a_file_there_is_nothing_to_reload_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(tmp_path / "config.yaml")
    reloader = Reloader(
        None,
        in_force=lambda: told.in_force,
        adopt=lambda _: pytest.fail("there is nothing to adopt"),
        metrics=told.metrics,
        later=told.clock.call_later,  # type: ignore[arg-type]
    )
    reloader.start()
    assert told.clock.next_timer() is None
    reloader.reload()
    assert told.results() == (0, 0, 1)
    (line,) = lines(caplog)
    assert line == ("INFO", "there is nothing to reload: the proxy was started without a configuration file")


@on_each_loop
async def test_however_many_ask_while_it_is_read_it_is_read_once_more(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    await told.start()
    told.reading = asyncio.Event()
    for _ in range(3):
        told.reloader.reload()
        await asyncio.sleep(0.01)
    told.write(config(NOWHERE, "max_event: 2MiB"))
    told.reading.set()
    await told.settled()
    assert told.results() == (2, 0, 1)
    assert told.adopted[-1] == load(told.path, environ={}).settings


@on_each_loop
async def test_a_request_during_a_poll_is_not_lost(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    await told.start()
    told.clock.advance(1)
    await asyncio.sleep(0)  # the look has begun, and finds nothing
    assert told.reloader._task is not None
    await told.reload()
    assert told.results() == (1, 0, 1)


@on_each_loop
async def test_what_is_being_read_when_the_drain_begins_never_takes_effect(tmp_path: Path) -> None:
    told = Told(tmp_path / "config.yaml")
    await told.start()
    told.reading = asyncio.Event()
    told.reloader.reload()
    await asyncio.sleep(0.01)
    await told.reloader.stop()
    told.reading.set()
    await told.settled()
    assert (told.adopted, told.results(), gc.isenabled()) == ([], (0, 0, 1), True)


@on_each_loop
async def test_files_are_looked_into_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, digests = threading.get_ident(), list[int]()

    def digest(path: Path) -> bytes:
        digests.append(threading.get_ident())
        return path.read_bytes()

    told = Told(tmp_path / "config.yaml")
    await told.start()
    monkeypatch.setattr(watching, "_digest", digest)
    told.write(config(NOWHERE, "max_event: 2MiB"))
    await told.advance(3)
    await told.reload()
    assert told.results() == (2, 0, 1)
    assert digests
    assert here not in digests


@on_each_loop
async def test_flags_and_the_environment_are_those_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"INTERVAL": "3s", "SSE_KEEPALIVE_PROXY_LOG_LEVEL": "error"}
    text = config(NOWHERE, "keepalive: {interval: '${INTERVAL}'}")
    told = Told(tmp_path / "config.yaml", text, environ, Overrides(upstream="http://127.0.0.1:2"))
    monkeypatch.setenv("INTERVAL", "4s")
    environ.clear()
    await told.start()
    await told.reload()
    (adopted,) = told.adopted
    assert adopted == told.in_force
    assert adopted.upstreams["up"].url == "http://127.0.0.1:2"
    assert adopted.logging.level == "error"


# What is wrong never replaces what is in force.


@on_each_loop
async def test_a_bad_file_changes_nothing_and_every_problem_is_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(path := tmp_path / "config.yaml")
    await told.start()
    told.write(BAD)
    await told.advance(30)
    assert (told.adopted, told.results()) == ([], (0, 1, 0))  # once: not again for every look
    *problems, verdict = lines(caplog)
    assert [line.split(": ")[0] for _, line in problems] == [f"{path}:4", f"{path}:7"]
    assert verdict == (
        "ERROR",
        "the configuration is not reloaded: the last valid one stays in force until the problems are fixed",
    )
    assert fields(caplog, verdict[1]) == {"file": str(path), "problems": 2}
    told.write(config(NOWHERE))
    await told.advance(3)
    assert (len(told.adopted), told.results()) == (1, (1, 1, 1))


@on_each_loop
async def test_a_file_that_is_gone_is_a_failure_until_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(path := tmp_path / "config.yaml")
    await told.start()
    path.unlink()
    await told.advance(5)
    assert (told.adopted, told.results()) == ([], (0, 1, 0))
    assert lines(caplog)[0] == ("ERROR", f"{path}: there is no such file")
    told.write(config(NOWHERE))
    await told.advance(3)
    assert told.results() == (1, 1, 1)


@on_each_loop
async def test_a_pipe_is_not_read_a_second_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = Told(path := tmp_path / "config.yaml")
    path.unlink()
    os.mkfifo(path)
    await told.start()
    await told.reload()
    assert (told.adopted, told.results()) == ([], (0, 1, 0))
    said = f"{path}: is not a regular file (start with a file that can be read again)"
    assert lines(caplog)[0] == ("ERROR", said)


@on_each_loop
async def test_what_only_shows_when_it_is_put_in_force_is_a_failure_like_any_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(tmp_path / "config.yaml")
    before = told.in_force
    told.refuses = ConfigurationError((Problem("went away", "identity.public_key_file"),))
    await told.start()
    await told.reload()
    assert (told.in_force, told.results()) == (before, (0, 1, 0))
    assert lines(caplog)[0] == ("ERROR", "identity.public_key_file: went away")


@on_each_loop
async def test_an_internal_error_is_a_failure_too_and_polling_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(tmp_path / "config.yaml")
    await told.start()
    told.refuses = RuntimeError("a secret")
    told.write(config(NOWHERE, "max_event: 2MiB"))
    await told.advance(3)
    assert told.results() == (0, 1, 0)
    assert lines(caplog)[0][1].endswith("because of an error in the proxy; please report this")
    told.refuses = None
    told.write(config(NOWHERE, "max_event: 30MiB"))  # of another length: the time may be the same
    await told.advance(3)
    assert told.results() == (1, 1, 1)


# What is said.


@on_each_loop
async def test_what_needs_a_restart_stays_and_one_warning_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(tmp_path / "config.yaml", config(NOWHERE, before="listen: 127.0.0.1:1080"))
    before = told.in_force
    await told.start()
    limits = "limits: {max_request_header: 1KiB, request_header_timeout: 1s, max_streams: 7}"
    told.write(config(NOWHERE, before=f"listen: 127.0.0.1:1081\nadmin: off\n{limits}"))
    await told.reload()
    (adopted,) = told.adopted
    assert (adopted.listen, adopted.admin) == (before.listen, before.admin)
    assert adopted.limits == before.limits.model_copy(update={"max_streams": 7})
    (warning,) = (line for level, line in lines(caplog) if level == "WARNING")
    assert warning == "changes of these keys need a restart; until then the old values stay in force"
    keys = "listen,admin,limits.max_request_header,limits.request_header_timeout"
    assert fields(caplog, warning) == {"keys": keys}
    told_of = {"changed": "limits", "needs_restart": keys}
    assert fields(caplog, "configuration reloaded") == told_of
    caplog.clear()
    told.write(config(NOWHERE, before="listen: 127.0.0.1:1080"))
    await told.reload()
    assert [level for level, _ in lines(caplog)] == ["INFO"]


@on_each_loop
async def test_the_log_says_in_few_words_what_is_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = "- {name: one, match: {path: /one}, upstream: up}"
    two = "- {name: two, match: {path: /two}, upstream: up}"
    told = Told(tmp_path / "config.yaml", config(NOWHERE, routes=f"{one}\n{two}"))
    await told.start()
    for text, said in (
        (config(NOWHERE, routes=f"{one}\n{two}\n# a comment"), {"changed": "nothing"}),
        (config(NOWHERE, routes=f"{two}\n{one}"), {"changed": "routes:order"}),
        (
            config(NOWHERE, routes=two.replace("two", "new")),
            {"routes_added": "new", "routes_removed": "two,one"},
        ),
        (
            config("http://127.0.0.1:2", "max_event: 2MiB", before="drain: {spread: 1s}\nwatch: false"),
            {"routes_removed": "new", "changed": "routes.events,upstreams.up,drain,watch"},
        ),
    ):
        told.write(text)
        await told.reload()
        assert fields(caplog, "configuration reloaded") == said


@on_each_loop
async def test_the_log_names_the_first_ten_of_many_routes_and_counts_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    routes = [f"- {{name: r{number}, match: {{path: /r{number}}}, upstream: up}}" for number in range(40)]
    told = Told(tmp_path / "config.yaml", config(NOWHERE, routes=routes[0]))
    await told.start()
    told.write(config(NOWHERE, routes="\n".join(routes)))
    await told.reload()
    first = ",".join(f"r{number}" for number in range(1, 11))
    assert fields(caplog, "configuration reloaded") == {"routes_added": f"{first} and 29 more"}


@on_each_loop
async def test_where_all_that_is_new_needs_a_restart_nothing_has_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(tmp_path / "config.yaml", config(NOWHERE, before="listen: 127.0.0.1:1080"))
    await told.start()
    told.write(config(NOWHERE, before="listen: 127.0.0.1:1081"))
    await told.reload()
    assert fields(caplog, "configuration reloaded") == {"changed": "nothing", "needs_restart": "listen"}


@on_each_loop
@pytest.mark.parametrize("asked", [True, False], ids=["asked", "watched"])
async def test_a_new_key_is_named_as_what_has_changed(
    asked: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(ED25519)
    identity = f"identity: {{from: 'query:access_token', verify: jwt, public_key_file: {key}}}"
    told = Told(tmp_path / "config.yaml", config(NOWHERE, identity))
    await told.start()

    async def changed() -> object:
        await told.reload() if asked else await told.advance(3)
        return fields(caplog, "configuration reloaded")

    key.write_bytes(ED25519 + b"\n")
    assert await changed() == {"changed": "public_key_file"}
    told.write(config(NOWHERE, identity, before="watch: true"))
    assert await changed() == {"changed": "nothing"}


@on_each_loop
async def test_a_new_key_is_named_although_the_reload_before_had_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(ED25519)
    identity = f"identity: {{from: 'query:access_token', verify: jwt, public_key_file: {key}}}"
    told = Told(tmp_path / "config.yaml", config(NOWHERE, identity))
    await told.start()
    key.write_bytes(ED25519 + b"\n")
    told.write(BAD)
    await told.reload()
    told.write(config(NOWHERE, identity))
    await told.reload()
    assert fields(caplog, "configuration reloaded") == {"changed": "public_key_file"}


@on_each_loop
async def test_warnings_are_logged_as_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = Told(path := tmp_path / "config.yaml")
    await told.start()
    told.write(config(NOWHERE).replace("upstreams: {", "upstreams: {spare: {url: 'http://127.0.0.1:2'}, "))
    await told.reload()
    assert ("WARNING", f"{path}:1: upstreams.spare: no route uses this upstream") in lines(caplog)


# Thousands of routes, and streams that flow.


class Turns:
    """How much of a reload was done in one turn of the event loop, and in how many turns."""

    def __init__(self) -> None:
        self.most: Counter[str] = Counter()
        self.count = 0
        self._now: Counter[str] = Counter()

    def done(self, what: str, count: int) -> None:
        if not self._now:
            asyncio.get_running_loop().call_soon(self._over)
        self._now[what] += count

    def _over(self) -> None:
        self.count += 1
        self.most |= self._now
        self._now = Counter()


def test_a_reload_of_thousands_of_routes_is_done_a_few_at_a_time_and_events_flow_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 3000
    routes = "\n".join(
        f"- {{name: r{each}, match: {{path: /r{each}}}, upstream: up, stream: {{}}}}" for each in range(count)
    )

    async def story() -> None:
        async with (
            RawUpstream(SILENT) as upstream,
            Reloading(tmp_path, config(upstream)) as proxy,
            await proxy.event_source() as client,
        ):
            await client.wait_for(b"connection_confirmed")
            peer = await upstream.connection()
            turns, unpack, ready = Turns(), pickle.loads, Proxy._prepare_route

            def unpacked(data: bytes) -> tuple[str, Sequence[Any]]:
                kind, values = unpack(data)
                turns.done("unpacked", len(values))
                return kind, values

            def made_ready(*args: Any) -> ReadyRoute:
                turns.done("made ready", 1)
                return ready(*args)

            monkeypatch.setattr("sse_keepalive_proxy.serve.source.pickle.loads", unpacked)
            monkeypatch.setattr(Proxy, "_prepare_route", made_ready)
            proxy.write(config(upstream, routes=routes))
            proxy.server.reload()
            events = 0
            while not proxy.metric("config_reloads_total", result="success"):
                peer.transport.write(chunk(b"data: %d\n\n" % events))
                await client.wait_for(b"data: %d\n\n" % events)
                await asyncio.sleep(0.001)
                events += 1
            assert turns.most == {"unpacked": 100, "made ready": 50}
            assert turns.count >= count / 100 + count / 50
            assert events > 20

    on_loop("uvloop", story(), within=120)


# What takes effect in a server, and for whom.


class Reloading(Instance):
    """An instance whose configuration can be written anew."""

    def __init__(self, folder: Path, text: str) -> None:
        self._path = folder / "config.yaml"
        self.write(text)
        source = Source(self._path, environ={}, overrides=Overrides())
        self.server = Server(source.load().settings, source)

    def write(self, text: str) -> None:
        admin = "" if "admin:" in text else "admin: off\n"
        self._path.write_text(f"listen: 127.0.0.1:0\n{admin}{text}")

    async def reload(self, text: str, result: str = "success") -> None:
        """Go by `text` from now on, or, with `failure`, do not."""
        before = self.metric("config_reloads_total", result=result)
        self.write(text)
        self.server.reload()
        await self.until(lambda: self.metric("config_reloads_total", result=result) > before)
        assert self.metric("config_reloads_total", result=result) == before + 1


async def body_of(proxy: Instance, target: str, *headers: str) -> bytes:
    async with await proxy.client() as client:
        client.request(target, *headers)
        await client.wait_response()
        return client.body


@on_each_loop
async def test_new_requests_go_by_the_new_configuration_and_those_in_flight_by_the_old(
    tmp_path: Path,
) -> None:
    async with (
        RawUpstream([GOT_REQUEST, go := asyncio.Event(), response("200 OK", b"old")]) as old,
        RawUpstream([GOT_REQUEST, response("200 OK", b"new")]) as new,
        Reloading(tmp_path, config(old)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/plain")
        await (await old.connection()).request()
        await proxy.reload(config(new))
        assert await body_of(proxy, "/plain") == b"new"
        go.set()
        await client.wait_response()
        assert client.body == b"old"
        client.request("/plain")  # on the connection that was there before
        await client.wait_for(lambda client: len(client.responses) == 2 and client.response.complete)
        assert client.body == b"new"


@on_each_loop
async def test_a_running_stream_keeps_its_policy_and_no_counter_goes_down(tmp_path: Path) -> None:
    often = "keepalive: {interval: 50ms}"
    async with (
        RawUpstream(SILENT) as upstream,
        Reloading(tmp_path, config(upstream, often)) as proxy,
        await proxy.event_source() as old,
    ):
        await old.wait_for(b":ping")
        await proxy.reload(config(upstream, "keepalive: {interval: 50ms, form: event}"))
        counted = proxy.metric("pings_sent_total", form="comment")
        assert counted >= 1
        async with await proxy.event_source() as new:
            await new.wait_for(b"event: ping")
            pings = old.body.count(b":ping")
            await old.wait_for(lambda client: client.body.count(b":ping") > pings + 1)
            assert b"event: ping" not in old.body
            assert b":ping" not in new.body
            assert proxy.metric("pings_sent_total", form="comment") > counted
            assert proxy.metric("pings_sent_total", form="event") >= 1
        await old.close()
        await proxy.until_closed("client_gone", 2)
        assert proxy.metric("pings_sent_total", form="comment") >= old.body.count(b":ping")


@on_each_loop
async def test_a_running_stream_keeps_its_upstream(tmp_path: Path) -> None:
    steps = [*SILENT, go := asyncio.Event(), chunk(b"data: of old\n\n")]
    async with (
        RawUpstream(steps) as old,
        RawUpstream([*SILENT, chunk(b"data: of new\n\n")]) as new,
        Reloading(tmp_path, config(old)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        await proxy.reload(config(new))
        async with await proxy.event_source() as other:
            await other.wait_for(b"data: of new\n\n")
        go.set()
        await client.wait_for(b"data: of old\n\n")
        assert client.ending is None


async def leaves(client: RawClient, proxy: Instance, count: int = 1) -> None:
    """`client` is told that its route is no more, and all `count` streams have ended so."""
    await client.wait_response()
    *_, block, rest = client.body.decode().split("\n\n")
    event, retry, data = block.split("\n")
    assert (event, rest) == ("event: stream_closing", "")
    assert 1000 <= int(retry.removeprefix("retry: ")) <= 5000
    assert json.loads(data.removeprefix("data: ")) == {"type": "stream_closing", "reason": "route_removed"}
    await proxy.until_closed("route_removed", count)


@on_each_loop
@pytest.mark.parametrize("how", ["route gone", "route renamed", "stream section gone"])
async def test_streams_of_what_is_no_stream_route_any_more_are_sent_away(how: str, tmp_path: Path) -> None:
    before, rest = "drain: {spread: 300ms}", "- {name: rest, match: {path: /*}, upstream: up}"
    async with RawUpstream([*SILENT, chunk(b"data: 1\n\ndata: ha")]) as upstream:
        text = config(upstream, HELD, before=before)
        plain = f"{before}\nupstreams: {{up: {{url: '{upstream.url}'}}}}\nroutes:\n"
        bare = "- {name: events, match: {path: /events}, upstream: up}"
        after = {
            "route gone": f"{plain}{rest}",
            "route renamed": text.replace("name: events", "name: others"),
            "stream section gone": f"{plain}{bare}\n{rest}",
        }
        async with (
            Reloading(tmp_path, text) as proxy,
            await proxy.event_source() as one,
            await proxy.event_source() as two,
        ):
            await one.wait_for(b"data: 1\n\n")
            await two.wait_for(b"data: 1\n\n")
            await proxy.reload(after[how])
            await leaves(one, proxy, 2)
            await leaves(two, proxy, 2)
            assert b"data: ha" not in one.body
            upstream.scripts = [[GOT_REQUEST, response("200 OK", b"plain")]]
            assert await body_of(proxy, "/plain") == b"plain"


@on_each_loop
async def test_a_stream_that_upstream_accepts_after_its_route_is_gone_is_sent_away_too(
    tmp_path: Path,
) -> None:
    before = "drain: {spread: 10ms}"
    async with (
        RawUpstream([GOT_REQUEST, go := asyncio.Event(), stream_head()]) as upstream,
        Reloading(tmp_path, config(upstream, before=before)) as proxy,
        await proxy.event_source() as client,
    ):
        await (await upstream.connection()).request()
        await proxy.reload(config(upstream, before=before).replace("name: events", "name: others"))
        go.set()
        await leaves(client, proxy)


@on_each_loop
async def test_streams_of_other_routes_stay(tmp_path: Path) -> None:
    other = "- {name: other, match: {path: /other}, upstream: up, stream: {}}"
    async with (
        RawUpstream(SILENT) as upstream,
        Reloading(tmp_path, config(upstream, before="drain: {spread: 10ms}", routes=other)) as proxy,
        await proxy.event_source() as stays,
        await proxy.event_source("/other") as goes,
    ):
        await stays.wait_for(b"connection_confirmed")
        await goes.wait_for(b"connection_confirmed")
        await proxy.reload(config(upstream, before="drain: {spread: 10ms}"))
        await goes.wait_response()
        await proxy.until(
            lambda: proxy.metric("streams_closed_total", route="other", reason="route_removed") == 1
        )
        await proxy.reload(config(upstream, before="drain: {spread: 10ms}"))
        assert (stays.ending, proxy.closed()) == (None, {})
        # What a route has counted stays after it has gone.
        assert proxy.opened("other") == 1


@on_each_loop
async def test_limits_take_effect_at_once_and_end_nothing_that_is_open(tmp_path: Path) -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Reloading(tmp_path, config(upstream)) as proxy,
        await proxy.event_source() as first,
        await proxy.event_source() as second,
    ):
        await first.wait_for(b"connection_confirmed")
        await second.wait_for(b"connection_confirmed")
        await proxy.reload(config(upstream, before="limits: {max_streams: 1, max_request_body: 1KiB}"))
        assert proxy.metric("streams_limit") == 1
        assert b"limits.max_streams)" in await body_of(proxy, "/events", EVENT_SOURCE)
        async with await proxy.client() as client:
            client.request("/plain", method="POST", body=b"x" * 2000)
            await client.wait_response()
            assert client.response.status == 413
        await proxy.reload(config(upstream, before="limits: {max_streams_per_client: 2}"))
        assert b"limits.max_streams_per_client)" in await body_of(proxy, "/events", EVENT_SOURCE)
        await proxy.reload(config(upstream, before="limits: {max_connections: 2}"))
        async with await proxy.client() as client:
            await client.wait_response()
            assert client.response.status == 503
        assert (first.ending, second.ending, proxy.closed()) == (None, None, {})


@on_each_loop
async def test_whom_to_believe_about_the_client_takes_effect_at_once(tmp_path: Path) -> None:
    async def seen() -> str:
        async with await proxy.event_source("/events", "CF-Connecting-IP: 203.0.113.9") as client:
            await client.wait_for(b"connection_confirmed")
            (stream,) = proxy.server.streams
            found = stream.client
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        return found

    async with RawUpstream(SILENT) as upstream, Reloading(tmp_path, config(upstream)) as proxy:
        assert await seen() == "127.0.0.1"
        await proxy.reload(config(upstream, before="client_address: CF-Connecting-IP"))
        assert await seen() == "203.0.113.9"
        await proxy.reload(
            config(upstream, before="client_address: CF-Connecting-IP\ntrusted_proxies: [10.0.0.0/8]")
        )
        assert await seen() == "127.0.0.1"


@on_each_loop
async def test_the_drain_goes_by_the_newest_configuration(tmp_path: Path) -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Reloading(tmp_path, config(upstream, before="drain: {timeout: 600s, spread: 600s}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        await proxy.reload(config(upstream, before="drain: {timeout: 20s, spread: 10ms}"))
        await proxy.server.drain(asyncio.Event())
        await client.wait_response()
        assert proxy.closed() == {"drain": 1}
        proxy.server.reload()
        assert proxy.metric("config_reloads_total", result="success") == 1


@on_each_loop
async def test_the_page_shows_what_is_in_force(tmp_path: Path) -> None:
    async def page() -> bytes:
        async with await RawClient.connect(f"http://{proxy.server.admin_addresses[0]}") as client:
            client.request("/config")
            await client.wait_response()
            return client.body

    admin = "admin: {listen: '127.0.0.1:0'}\n"
    async with Reloading(tmp_path, admin + config(NOWHERE)) as proxy:
        first = await page()
        await proxy.reload(admin + config("http://127.0.0.1:2", before="limits: {max_request_header: 1KiB}"))
        second = await page()
        assert b"url: http://127.0.0.1:2\n" in second
        assert b"max_request_header: 32KiB" in second  # a restart is needed for this one
        await proxy.reload(BAD, "failure")
        assert await page() == second != first


@on_each_loop
async def test_a_reload_that_fails_leaves_routes_and_metrics_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(ED25519)
    identity = f"identity: {{from: 'query:access_token', verify: jwt, public_key_file: {key}}}"
    async with (
        RawUpstream([GOT_REQUEST, response("200 OK", b"served")]) as upstream,
        Reloading(tmp_path, config(upstream)) as proxy,
    ):

        def gone(*_: object) -> None:
            raise ConfigurationError((Problem("changed while it was read"),))

        monkeypatch.setattr("sse_keepalive_proxy.gateway.app.Identifier", gone)
        first = "- {name: first, match: {path: /first}, upstream: up}"
        second = f"- {{name: second, match: {{path: /second}}, upstream: up, stream: {{{identity}}}}}"
        text = config(upstream, routes=f"{first}\n{second}").replace("url: 'http", "url: 'https")
        await proxy.reload(text, "failure")
        assert await body_of(proxy, "/first") == b"served"
        assert "first" not in proxy.server.metrics.routes


@on_each_loop
async def test_logging_is_configured_again_only_if_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str, bool]] = []
    monkeypatch.setattr(
        "sse_keepalive_proxy.observe.log.configure",
        lambda level, form, *, access: told.append((level, form, access)),
    )
    async with Reloading(tmp_path, config(NOWHERE)) as proxy:
        await proxy.reload(config(NOWHERE, "max_event: 2MiB"))
        assert told == []
        await proxy.reload(config(NOWHERE, before="logging: {level: debug, format: json, access: false}"))
        assert told == [("debug", "json", False)]
