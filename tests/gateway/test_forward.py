"""CORS where it is the proxy's: on every answer of a route, upstream's or our own; and nowhere else."""

from __future__ import annotations

import pytest

from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.programs import free_port
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    LAST_CHUNK,
    RawUpstream,
    UpstreamConnection,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop

APP = "https://app.example.com"
THEIRS = ("Access-Control-Allow-Origin: *", "Access-Control-Allow-Credentials: true", "Vary: Accept")
ALLOW = "Access-Control-Allow-Origin"

CORS = f"cors: {{origins: ['{APP}'], credentials: true}}"
ROUTES = f"""\
- name: own
  match: {{path: /own}}
  upstream: up
  {CORS}
  stream: {{head: refuse, reconnect: off}}
- name: late
  match: {{path: /late}}
  upstream: up
  {CORS}
  stream: {{reconnect: off, open_timeout: 300ms}}
- {{name: early, match: {{path: /early}}, upstream: up, {CORS}, stream: {{early_commit: {{after: 50ms}}}}}}
- {{name: posts, match: {{path: /posts, methods: [POST]}}, upstream: up, {CORS}}}
- {{name: plain, match: {{path: /plain}}, upstream: up, {CORS}}}
"""


async def answers(connection: UpstreamConnection) -> None:
    """Answers by path, with CORS headers of its own."""
    asked = await connection.next_request()
    match asked.target.partition("?")[2]:
        case "refused":
            await connection.send(response("401 No", b"no", *THEIRS))
        case "broken":
            connection.reset()
        case "late":
            pass
        case "slow":
            await connection.play([0.2, stream_head(*THEIRS), chunk(b"data: 1\n\n"), LAST_CHUNK])
        case _ if "stream" in (asked.header("Accept") or ""):
            await connection.send(stream_head(*THEIRS) + chunk(b"data: 1\n\n") + LAST_CHUNK)
        case _:
            await connection.send(response("200 OK", b"ok", *THEIRS))


async def asked(proxy: Instance, target: str, *headers: str, method: str = "GET") -> RawClient:
    """A client with a whole answer to a page of the app."""
    async with await proxy.client() as client:
        client.request(target, f"Origin: {APP}", *headers, method=method)
        await client.wait_response()
    return client


@on_each_loop
@pytest.mark.parametrize(
    ("target", "headers", "method", "status"),
    [
        ("/own", (EVENT_SOURCE,), "GET", 200),
        ("/own?refused", (EVENT_SOURCE,), "GET", 401),
        ("/own?broken", (EVENT_SOURCE,), "GET", 502),
        ("/late?late", (EVENT_SOURCE,), "GET", 504),
        ("/own", (), "HEAD", 405),
        ("/own", (), "GET", 200),
        ("/early?slow", (EVENT_SOURCE,), "GET", 200),
        ("/plain", (), "GET", 200),
        ("/plain?broken", (), "GET", 502),
        ("/plain", (), "OPTIONS", 200),
    ],
)
async def test_every_answer_of_a_route_has_the_headers_once_and_none_of_upstreams(
    target: str, headers: tuple[str, ...], method: str, status: int
) -> None:
    async with RawUpstream(answers) as upstream, Instance(config(upstream, routes=ROUTES)) as proxy:
        client = await asked(proxy, target, *headers, method=method)
        head = client.response
        assert head.status == status
        assert head.header(ALLOW) == APP
        assert head.header("Access-Control-Allow-Credentials") == "true"
        assert [name for name in head.header_names if name.lower() == ALLOW.lower()] == [ALLOW]
        assert "Origin" in (head.header("Vary") or "").split(", ")


@on_each_loop
async def test_a_stream_refused_for_want_of_room_can_be_read_by_the_page_too() -> None:
    before = "limits: {max_streams: 1}"
    async with (
        RawUpstream([GOT_REQUEST, stream_head()]) as upstream,
        Instance(config(upstream, routes=ROUTES, before=before)) as proxy,
        await proxy.event_source("/own", f"Origin: {APP}") as first,
    ):
        await first.wait_for(b"connection_confirmed")
        client = await asked(proxy, "/own", EVENT_SOURCE)
        assert client.response.status == 503
        assert client.response.header(ALLOW) == APP


@on_each_loop
async def test_an_upstream_that_is_down_does_not_look_like_a_fault_of_cors() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with Instance(config(url, routes=ROUTES)) as proxy:
        for target in ("/own", "/plain"):
            client = await asked(proxy, target, EVENT_SOURCE)
            assert client.response.status == 502
            assert client.response.header(ALLOW) == APP


@on_each_loop
async def test_another_origin_gets_no_cors_headers() -> None:
    async with RawUpstream(answers) as upstream, Instance(config(upstream, routes=ROUTES)) as proxy:
        for target in ("/own", "/plain", "/plain?broken"):
            async with await proxy.client() as client:
                client.request(target, "Origin: https://evil.example", EVENT_SOURCE)
                await client.wait_response()
                assert client.response.header(ALLOW) is None
                assert client.response.header("Access-Control-Allow-Credentials") is None
                assert "Origin" in (client.response.header("Vary") or "")


@on_each_loop
async def test_off_leaves_upstreams_as_they_were_and_adds_none_to_ours() -> None:
    async with RawUpstream(answers) as upstream, Instance(config(upstream, "head: refuse")) as proxy:
        for target, headers in (("/events", (EVENT_SOURCE,)), ("/plain", ()), ("/events?refused", ())):
            head = (await asked(proxy, target, *headers)).response
            assert head.header(ALLOW) == "*"
            assert head.header("Access-Control-Allow-Credentials") == "true"
            assert head.header("Vary") == "Accept"
        for target, method in (("/events", "HEAD"), ("/events?broken", "GET")):
            assert (await asked(proxy, target, method=method)).response.header(ALLOW) is None


@on_each_loop
async def test_what_no_route_takes_is_nobodys_answer_to_a_page() -> None:
    only = "routes: [{name: own, match: {path: /own}, upstream: up, cors: {origins: ['*']}}]"
    async with Instance(f"upstreams: {{up: {{url: 'http://127.0.0.1:{free_port()}'}}}}\n{only}\n") as proxy:
        client = await asked(proxy, "/other")
        assert client.response.status == 404
        assert client.response.header(ALLOW) is None


# Preflights.

PREFLIGHT = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization")


@on_each_loop
@pytest.mark.parametrize("target", ["/own", "/early", "/plain"])
async def test_a_preflight_is_answered_here_and_reaches_no_upstream(target: str) -> None:
    async with RawUpstream(answers) as upstream, Instance(config(upstream, routes=ROUTES)) as proxy:
        async with await proxy.client() as client:
            for _ in range(2):  # the connection is kept
                client.request(target, f"Origin: {APP}", *PREFLIGHT, method="OPTIONS")
            await client.wait_for(lambda client: len(client.responses) == 2 and client.responses[1].complete)
            head = client.response
            assert (head.status, client.body) == (204, b"")
            assert head.header(ALLOW) == APP
            assert "GET" in (head.header("Access-Control-Allow-Methods") or "")
            assert head.header("Access-Control-Allow-Headers") == "authorization"
            assert head.header("Content-Length") is None
        assert upstream.connections == []
        assert proxy.metric("requests_total", route=target[1:], method="OPTIONS", code="204") == 2
        assert len(proxy.server.streams) == 0


@on_each_loop
async def test_a_preflight_is_for_the_route_of_the_method_it_asks_for() -> None:
    async with RawUpstream(answers) as upstream, Instance(config(upstream, routes=ROUTES)) as proxy:
        for method, status in (("POST", 204), ("GET", 200)):
            fields = f"Access-Control-Request-Method: {method}"
            client = await asked(proxy, "/posts", fields, method="OPTIONS")
            assert client.response.status == status  # the second is upstream's own affair
        assert len(upstream.connections) == 1


@on_each_loop
async def test_a_preflight_of_another_origin_is_answered_without_leave() -> None:
    async with RawUpstream(answers) as upstream, Instance(config(upstream, routes=ROUTES)) as proxy:
        async with await proxy.client() as client:
            client.request("/plain", "Origin: https://evil.example", *PREFLIGHT, method="OPTIONS")
            await client.wait_response()
            assert client.response.header(ALLOW) is None
        assert upstream.connections == []


@on_each_loop
async def test_without_cors_a_preflight_is_upstreams_to_answer() -> None:
    async with RawUpstream(answers) as upstream, Instance(config(upstream, routes=ROUTES)) as proxy:
        client = await asked(proxy, "/elsewhere", *PREFLIGHT, method="OPTIONS")
        assert (client.response.status, client.body) == (200, b"ok")
        assert client.response.header(ALLOW) == "*"
        assert len(upstream.connections) == 1


@on_each_loop
async def test_an_options_that_asks_for_no_method_is_no_preflight() -> None:
    async with RawUpstream(answers) as upstream, Instance(config(upstream, routes=ROUTES)) as proxy:
        client = await asked(proxy, "/plain", method="OPTIONS")
        assert (client.response.status, client.body) == (200, b"ok")
        assert len(upstream.connections) == 1
