"""The admin listener: open to scrapers and probes, closed to strangers, and unable to change anything."""

from __future__ import annotations

import json
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from sse_keepalive_proxy.config import Pages
from sse_keepalive_proxy.demo.tokens import new_tokens
from sse_keepalive_proxy.observe import admin as module
from sse_keepalive_proxy.observe.admin import MOST_CONNECTIONS, Phase, admin_handler, may_see
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.registry import Registry
from tests.http.serving import Serving
from tests.support.http1 import request
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.nats import nats_server, publisher, send
from tests.support.proxy_process import parse_metrics
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, RawUpstream, chunk, stream_head
from tests.support.running import on_each_loop, on_loop, settings_of, soon
from tests.support.sockets import Ending

SILENT = [GOT_REQUEST, stream_head()]
NOWHERE = "http://127.0.0.1:1"
OPEN = ["/metrics", "/livez", "/readyz"]
PAGES = ["/", "/streams", "/config"]
EVIL = "<script>alert(1)<"


def admin(listen: str = "127.0.0.1:0", pages: str = "loopback") -> str:
    return f"admin: {{listen: '{listen}', pages: {pages}}}"


async def connect(proxy: Instance, host: str = "127.0.0.1") -> RawClient:
    """A connection to the admin listener."""
    port = int(proxy.server.admin_addresses[0].rpartition(":")[2])
    return await RawClient.connect(host=host, port=port)


async def ask(proxy: Instance, path: str, *headers: str, method: str = "GET") -> RawClient:
    """The answer of the admin listener, on a connection that is closed."""
    async with await connect(proxy) as client:
        client.request(path, *headers, method=method)
        await client.wait_response()
        return client


# What everybody may ask.


@on_each_loop
async def test_metrics_are_prometheus_text_and_about_this_instance() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before=admin())) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        answer = await ask(proxy, "/metrics")
        assert answer.response.status == 200
        assert (answer.response.header("Content-Type") or "").startswith("text/plain; version=")
        key = ("sse_proxy_confirms_sent_total", frozenset({("route", "events"), ("form", "event")}))
        assert parse_metrics(answer.body.decode())[key] == 1


@on_each_loop
async def test_probes_answer_one_word_that_must_not_be_cached() -> None:
    async with Instance(config(NOWHERE, before=admin())) as proxy:
        for path, word in (("/livez", b"alive\n"), ("/readyz", b"ready\n")):
            answer = await ask(proxy, path)
            assert (answer.response.status, answer.body) == (200, word)
            assert answer.response.header("Cache-Control") == "no-store"


@pytest.mark.parametrize("phase", list(Phase))
def test_only_a_ready_server_is_ready_and_every_one_lives(phase: Phase) -> None:
    streams = Registry(10, None)
    handler = admin_handler(
        metrics=Metrics(streams, lambda: 0.0),
        streams=streams,
        config_yaml=lambda: "listen: x\n",
        pages=Pages.LOOPBACK,
        phase=lambda: phase,
        upstream=lambda _: None,
    )

    async def probe() -> None:
        async with Serving(handler) as serving, await serving.client() as client:
            client.send(request("/readyz") + request("/livez"))
            await client.wait_for(lambda client: len(client.responses) == 2 and client.response.complete)
            ready, alive = client.responses
            assert ready.status == (200 if phase is Phase.READY else 503)
            assert (bytes(ready.body), alive.status) == (f"{phase.value}\n".encode(), 200)

    on_loop("asyncio", probe())


# What operators see.


@on_each_loop
async def test_streams_are_json_with_every_open_stream() -> None:
    async with (
        RawUpstream([*SILENT, chunk(b": c\n\ndata: 1\n\n")]) as upstream,
        Instance(config(upstream, "keepalive: {interval: 50ms}", before=admin())) as proxy,
        await proxy.event_source("/events?access_token=s3cr3t", "X-Forwarded-For: 203.0.113.7") as client,
        await proxy.event_source() as other,
    ):
        await client.wait_for(b":ping")
        await other.wait_for(b":ping")
        answer = await ask(proxy, "/streams")
        assert answer.response.header("Content-Type") == "application/json; charset=utf-8"
        shown: list[dict[str, Any]] = json.loads(answer.body)["streams"]
        assert {stream["client"] for stream in shown} == {"203.0.113.7", "127.0.0.1"}
        mine = next(stream for stream in shown if stream["client"] == "203.0.113.7")
        assert mine["family"] == "browser"
        assert mine["id"] == json.loads(client.events[0].data)["stream_id"]
        assert (mine["route"], mine["state"]) in {("events", "idle"), ("events", "flowing")}
        assert (mine["events"], mine["comments"], mine["stalls"]) == (1, 1, 0)
        assert mine["pings"] >= 1
        assert mine["age_s"] >= mine["since_upstream_byte_s"] == mine["since_upstream_event_s"] >= 0.05
        assert mine["bytes"] > 0
        assert "s3cr3t" not in answer.body.decode()


@on_each_loop
async def test_without_streams_the_list_is_empty() -> None:
    async with Instance(config(NOWHERE, before=admin())) as proxy:
        assert json.loads((await ask(proxy, "/streams")).body) == {"streams": [], "groups": [], "bridges": []}


BRIDGE = """\
identity: {{verify: upstream}}
bridge:
  servers: nats://127.0.0.1:{port}
  user: me
  password: s3cr3t
  subscriber: claim:user.id
  grace: 10m
  subjects: [{{subject: chat, recipients: to, data: text}}]
{more}
"""


@on_each_loop
@pytest.mark.parametrize("shared", [True, False])
async def test_what_a_stream_has_at_the_bridge_is_shown_and_the_connection_to_nats(
    tmp_path: Path, shared: bool
) -> None:
    more = "share: {by: credential}" if shared else ""

    async def shown(proxy: Instance) -> tuple[dict[str, Any], list[Any]]:
        answer, page = await ask(proxy, "/streams"), await ask(proxy, "/")
        assert "s3cr3t" not in f"{answer.body.decode()} {page.body.decode()}"
        found = json.loads(answer.body)
        assert f"<td>{found['bridges'][0]['server']}</td>".encode() in page.body
        return found["bridges"][0], [each["bridge"] for each in found["groups" if shared else "streams"]]

    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream(SILENT))
        with nats_server(tmp_path, None, "--user", "me", "--pass", "s3cr3t") as (_, port):
            text = config(upstream, BRIDGE.format(port=port, more=more), before=admin())
            proxy = await stack.enter_async_context(Instance(text))
            await proxy.until(lambda: proxy.metric("bridge_connected"))
            target = f"/events?access_token={new_tokens().issue(7)}"
            client = await stack.enter_async_context(await proxy.event_source(target))
            await client.wait_for(b"connection_confirmed")
            async with publisher(port, "me", "s3cr3t") as nats:
                await send(nats, "chat", {"to": 7, "text": "hi"})
                await send(nats, "chat", {"to": 8, "text": "hi"})
            await proxy.until(lambda: proxy.metric("bridge_events_total", outcome="no_subscriber"))
            bridge, streams = await shown(proxy)
            known = {key: bridge[key] for key in ("route", "mode", "state", "server", "streams", "filled")}
            assert known == {
                "route": "events",
                "mode": "fill",
                "state": "connected",
                "server": f"127.0.0.1:{port}",
                "streams": 1,
                "filled": 0,
            }
            assert streams == [{"mode": "fill", "waiting": 1, "filled": 0}]
        await proxy.until(lambda: not proxy.metric("bridge_connected"))
        bridge, _ = await shown(proxy)
        assert (bridge["state"], bridge["server"]) == ("away", f"127.0.0.1:{port}")
        assert 0 <= bridge["since_s"] < 60


@on_each_loop
async def test_the_configuration_is_shown_as_it_is_in_force_and_can_be_read_back() -> None:
    text = config(NOWHERE, "keepalive: {interval: 7s}", before=admin())
    async with Instance(text) as proxy:
        shown = (await ask(proxy, "/config")).body.decode()
        written = yaml.safe_load(shown)
        assert written["routes"][0]["stream"]["keepalive"]["interval"] == "7s"
        assert written["limits"]["max_streams"] == 10000
        assert settings_of(shown) == settings_of(f"{text}\nlisten: 127.0.0.1:0")


@on_each_loop
async def test_the_page_is_html_that_may_load_and_run_nothing() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before=admin())) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        answer = await ask(proxy, "/")
        assert answer.response.header("Content-Type") == "text/html; charset=utf-8"
        assert answer.response.header("Content-Security-Policy") == (
            "default-src 'none'; style-src 'unsafe-inline'"
        )
        assert answer.response.header("X-Content-Type-Options") == "nosniff"
        assert answer.response.header("Cache-Control") == "no-store"
        assert b"1 of " in answer.body
        assert json.loads(client.events[0].data)["stream_id"].encode() in answer.body


@on_each_loop
async def test_a_hostile_client_stays_text_on_every_page() -> None:
    # An IPv6 zone may be anything, so this is an address; and a trusted hop that names it is believed.
    hostile = f"fe80::1%{EVIL}"
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before=admin())) as proxy,
        await proxy.event_source(
            f"/events?{EVIL}", f"X-Forwarded-For: {hostile}", f"User-Agent: {EVIL}", f"Referer: {EVIL}"
        ) as client,
    ):
        await client.wait_for(b"connection_confirmed")
        page = await ask(proxy, "/")
        assert b"<script" not in page.body
        listed = json.loads((await ask(proxy, "/streams")).body)["streams"][0]["client"]
        assert listed in (hostile, "127.0.0.1")
        assert (b"&lt;script&gt;" in page.body) == (listed == hostile)
        assert b"<script" not in (await ask(proxy, "/config")).body
        assert b"<script" not in (await ask(proxy, "/metrics")).body


# Who may see it.


@pytest.mark.parametrize(
    ("pages", "peer", "host", "seen"),
    [
        ("loopback", "127.0.0.1", "127.0.0.1:9090", True),
        ("loopback", "127.8.8.8", "localhost", True),
        ("loopback", "::1", "[::1]:9090", True),
        ("loopback", "::ffff:127.0.0.1", "LocalHost:9090", True),
        ("loopback", "10.0.0.5", "127.0.0.1:9090", False),
        ("loopback", "::ffff:10.0.0.5", "127.0.0.1:9090", False),
        ("loopback", "fe80::1%eth0", "[fe80::2]:9090", False),
        ("loopback", "127.0.0.1", "10.0.0.1:9090", True),  # an address is not a name that DNS could turn
        ("loopback", "127.0.0.1", "evil.example:9090", False),
        ("loopback", "127.0.0.1", "localhost.evil.example", False),
        ("loopback", "127.0.0.1", "127.0.0.1.evil.example", False),
        ("loopback", "127.0.0.1", "", False),
        ("all", "10.0.0.5", "10.0.0.1:9090", True),
        ("all", "2001:db8::5", "[2001:db8::1]:9090", True),
        ("all", "10.0.0.5", "evil.example", False),
        ("off", "127.0.0.1", "127.0.0.1:9090", False),
        ("loopback", "", "localhost", True),  # a Unix socket
        ("loopback", "?", "localhost", False),  # it has left
    ],
)
def test_pages_are_seen_by_whom_the_configuration_lets(pages: str, peer: str, host: str, seen: bool) -> None:
    assert may_see(peer, host.encode(), Pages(pages)) is seen


@on_each_loop
async def test_a_request_with_a_foreign_host_name_gets_no_page_about_clients() -> None:
    async with Instance(config(NOWHERE, before=admin())) as proxy:
        for path in PAGES:
            answer = await ask(proxy, path, "Host: rebound.example:9090")
            assert (answer.response.status, answer.body) == (404, b"not found\n")
        for path in OPEN:
            assert (await ask(proxy, path, "Host: rebound.example")).response.status == 200


@on_each_loop
async def test_forwarding_headers_do_not_change_access_to_the_pages() -> None:
    async with Instance(config(NOWHERE, before=admin())) as proxy:
        assert (await ask(proxy, "/streams", "X-Forwarded-For: 203.0.113.7")).response.status == 200
        assert (
            await ask(proxy, "/streams", "Host: evil.example", "X-Forwarded-Host: localhost")
        ).response.status == 404


@on_each_loop
async def test_a_request_without_a_host_sees_no_page() -> None:
    async with Instance(config(NOWHERE, before=admin())) as proxy:
        for path, status in (("/streams", 404), ("/livez", 200)):
            async with await connect(proxy) as client:
                client.send(b"GET %b HTTP/1.0\r\n\r\n" % path.encode())
                await client.wait_response()
                assert client.response.status == status


@on_each_loop
async def test_loopback_is_loopback_on_a_listener_for_both_families() -> None:
    async with Instance(config(NOWHERE, before=admin(":0"))) as proxy:
        for host in ("127.0.0.1", "127.9.9.9"):
            async with await connect(proxy, host) as client:
                client.request("/streams")
                await client.wait_response()
                assert client.response.status == 200


@on_each_loop
async def test_clients_of_a_unix_socket_may_see_the_pages(tmp_path: Path) -> None:
    async with (
        Instance(config(NOWHERE, before=admin(f"unix:{tmp_path}/admin"))) as proxy,
        await RawClient.connect(path=tmp_path / "admin") as client,
    ):
        assert proxy.server.admin_addresses == [f"unix:{tmp_path}/admin"]
        client.request("/streams", "Host: localhost")
        await client.wait_response()
        assert client.response.status == 200


@on_each_loop
async def test_off_means_that_nothing_listens() -> None:
    async with Instance(config(NOWHERE, before="admin: off")) as proxy:
        assert proxy.server.admin_addresses == []


# Nothing changes state.


@on_each_loop
async def test_nothing_but_get_and_head_is_answered_and_nothing_changes() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before=admin())) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        before = (await ask(proxy, "/config")).body
        for path in (*OPEN, *PAGES):
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
                answer = await ask(proxy, path, EVENT_SOURCE, method=method)
                assert answer.response.status == 405
                assert set((answer.response.header("Allow") or "").split(",")) == {"GET", "HEAD"}
        assert (await ask(proxy, "/config")).body == before
        assert client.ending is None
        assert len(proxy.server.streams) == 1
        assert proxy.server.phase is Phase.READY


@on_each_loop
async def test_a_head_is_a_get_without_its_body() -> None:
    async with Instance(config(NOWHERE, before=admin())) as proxy:
        for path in (*OPEN, *PAGES):
            answer = await ask(proxy, path, method="HEAD")
            assert (answer.response.status, answer.body) == (200, b"")
            assert int(answer.response.header("Content-Length") or 0) > 0


@on_each_loop
async def test_what_is_not_there_is_404_and_the_proxys_routes_are_not_here() -> None:
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream, before=admin())) as proxy:
        for path in ("/events", "/metrics/", "/streams/1", "/../config", "/reload"):
            assert (await ask(proxy, path)).response.status == 404
        assert upstream.connections == []


# Its connections.


@on_each_loop
async def test_however_many_idle_connections_there_are_a_new_one_is_answered() -> None:
    async with Instance(config(NOWHERE, before=admin())) as proxy:
        frontend = proxy.server._admin
        assert frontend is not None
        idle = [await connect(proxy) for _ in range(5 * MOST_CONNECTIONS)]
        for client in idle[::2]:
            client.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n")
        assert (await ask(proxy, "/livez")).response.status == 200
        await soon(lambda: sum(client.ending is None for client in idle) == MOST_CONNECTIONS - 1)
        assert [client.ending is None for client in idle[: -2 * MOST_CONNECTIONS]].count(True) == 0
        assert frontend.open_connections <= MOST_CONNECTIONS
        for client in idle:
            await client.close()


@on_each_loop
async def test_admin_connections_take_no_place_from_clients_and_clients_none_from_them() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before=admin() + "\nlimits: {max_connections: 1}")) as proxy,
        await connect(proxy) as first,
        await connect(proxy) as second,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        for probe in (first, second):
            probe.request("/livez")
            assert (await probe.wait_response()).status == 200


@on_each_loop
async def test_half_a_head_and_an_idle_connection_have_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HEAD_TIMEOUT", 0.05)
    monkeypatch.setattr(module, "_IDLE_TIMEOUT", 0.1)
    async with (
        Instance(config(NOWHERE, before=admin())) as proxy,
        await connect(proxy) as half,
        await connect(proxy) as idle,
    ):
        half.send(b"GET /livez HTTP/1.1\r\n")
        idle.request("/livez")
        assert await half.wait_end() is Ending.EOF
        assert half.response.status == 408
        assert await idle.wait_end() is Ending.EOF
        assert idle.response.status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"OPTIONS * RTSP/1.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
    ],
)
@on_each_loop
async def test_rubbish_is_refused_and_leaves_nothing_in_the_log(
    sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with Instance(config(NOWHERE, before=admin())) as proxy, await connect(proxy) as client:
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "sse_keepalive_proxy"):
            client.send(sent)
            await client.wait_end()
        assert client.response.status == status
        assert caplog.records == []
