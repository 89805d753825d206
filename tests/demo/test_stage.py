"""What the demo runs, and what its page can ask for."""

import asyncio
import socket

import aiohttp
import pytest

from sse_keepalive_proxy.config import load
from sse_keepalive_proxy.demo import stage as stage_module
from sse_keepalive_proxy.demo.observer import Life
from sse_keepalive_proxy.demo.stage import settings, staged
from sse_keepalive_proxy.errors import CannotListen
from tests.support.looping import in_loop
from tests.support.programs import require


def test_the_configuration_is_valid_without_a_warning() -> None:
    assert load(stage_module._CONFIG, environ={}).warnings == ()
    assert str(settings().listen[0]) == "127.0.0.1:8090"


def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSE_KEEPALIVE_PROXY_LISTEN", "0.0.0.0:1")
    assert str(settings(port=0).listen[0]) == "127.0.0.1:0"


@in_loop
async def test_the_direct_stream_is_silent_and_the_proxied_one_alive() -> None:
    async with staged(0) as stage:
        assert await stage.until(lambda: stage.proxied.figures().confirm_after is not None, 20)
        direct, proxied = stage.figures()
        assert (direct.life, direct.bytes) == (Life.SILENT, 0)
        assert proxied.life is Life.ALIVE
        assert not await stage.until(lambda: stage.direct.figures().bytes > 0, 0.05)


@in_loop
async def test_a_message_ends_the_direct_stream_and_reaches_the_proxied_client_whose_stream_goes_on() -> None:
    async with staged(0) as stage:
        await stage.until(lambda: stage.proxied.figures().confirm_after is not None, 20)
        assert stage.send("hi").delivered == 2
        assert await stage.until(lambda: stage.proxied.figures().message_after is not None, 20)
        assert await stage.until(lambda: stage.direct.figures().end is not None, 20)
        assert (stage.direct.figures().events, stage.direct.figures().heard) == (1, 0)
        assert await stage.until(lambda: stage.proxied.figures().gaps == 1, 20)
        assert stage.send("hi again").delivered == 1
        assert await stage.until(lambda: stage.proxied.figures().messages == 2, 20)
        assert stage.proxied.figures().end is None


@in_loop
async def test_the_pages_come_from_both_origins_and_tell_what_is_on_the_wire() -> None:
    async with staged(0) as stage, aiohttp.ClientSession() as session:
        for origin in (stage.direct_url, stage.proxy_url):
            for path in ("/demo/", "/demo/pane"):
                async with session.get(origin + path) as answer:
                    assert answer.content_type == "text/html"
                    assert "default-src 'none'" in answer.headers["content-security-policy"]
            async with session.get(f"{origin}/demo/wire") as answer:
                wire = await answer.json()
            assert (wire["direct_url"], wire["proxy_url"]) == (stage.direct_url, stage.proxy_url)
            assert wire["direct"]["bytes"] == 0
            assert wire["proxied"]["headers_after"] > 0


@in_loop
async def test_each_pane_joins_as_a_user_of_its_own() -> None:
    async with staged(0) as stage, aiohttp.ClientSession() as session:
        users = set()
        for _ in range(3):
            async with session.post(f"{stage.proxy_url}/demo/join") as answer:
                joined = await answer.json()
            users.add(joined["user_id"])
            assert stage.notify.tokens.verify(joined["access_token"])["user"]["id"] == joined["user_id"]
        assert len(users) == 3
        async with session.get(f"{stage.proxy_url}/demo/join") as answer:
            assert answer.status == 405


@in_loop
async def test_starting_over_opens_both_streams_again() -> None:
    async with staged(0) as stage, aiohttp.ClientSession() as session:
        stage.send("hi")
        assert await stage.until(lambda: stage.direct.figures().end is not None, 20)
        before = stage.proxied
        async with session.post(f"{stage.proxy_url}/demo/restart", data="{}") as answer:
            assert answer.status == 200
        assert stage.proxied is not before
        assert await stage.until(lambda: stage.proxied.figures().life is Life.ALIVE, 20)
        assert await stage.until(lambda: stage.direct.figures().life is Life.SILENT, 20)


@in_loop
async def test_upstream_restarts_on_its_port_and_only_the_proxied_stream_lives_on() -> None:
    async with staged(0) as stage, aiohttp.ClientSession() as session:
        assert await stage.until(lambda: stage.proxied.figures().confirm_after is not None, 20)
        port = stage.notify.port
        async with session.post(f"{stage.proxy_url}/demo/outage", data="{}") as answer:
            assert answer.status == 200, "it answers before it goes"
        assert await stage.until(lambda: stage.direct.figures().end is not None, 20)
        assert await stage.until(lambda: stage.proxied.figures().gaps == 1, 20)
        assert (stage.notify.port, stage.restarts) == (port, 1)
        assert stage.proxied.figures().life is Life.ALIVE
        assert stage.send("hi").delivered == 1
        assert await stage.until(lambda: stage.proxied.figures().messages == 1, 20)
        assert stage.direct.figures().messages == 0


@in_loop
async def test_upstream_restarts_even_if_another_program_had_its_port_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage_module, "DOWN", 0.05)
    async with staged(0) as stage:
        start, refused = stage.notify.start, []

        async def taken(host: str = "", port: int = 0) -> None:
            if len(refused) < 2:
                with socket.create_server((host, port)):
                    with pytest.raises(OSError, match="address already in use") as error:
                        await start(host, port)
                    refused.append(port)
                    raise error.value
            await start(host, port)

        monkeypatch.setattr(stage.notify, "start", taken)
        await stage.restart_upstream()
        assert refused == [stage.notify.port] * 2
        assert await stage.until(lambda: stage.proxied.figures().gaps == 1, 20)


@in_loop
async def test_a_message_waits_for_a_proxied_stream_without_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "DOWN", 0.5)
    async with staged(0) as stage, aiohttp.ClientSession() as session:
        await stage.restart_upstream()
        async with session.post(f"{stage.direct_url}/demo/say", json={"content": "hi"}) as answer:
            assert (await answer.json())["delivered"] == 1
        assert await stage.until(lambda: stage.proxied.figures().messages == 1, 20)
        for body in ("", "[]", "{}"):
            async with session.post(f"{stage.direct_url}/demo/say", data=body) as answer:
                assert answer.status == 400


@in_loop
async def test_a_message_waits_until_the_named_users_have_a_stream() -> None:
    async with staged(0) as stage, aiohttp.ClientSession() as session:
        user, token = stage.member()
        asking = asyncio.ensure_future(
            session.post(f"{stage.direct_url}/demo/say", json={"content": "hi", "user_ids": [user]})
        )
        observer = await stage.open(stage.direct_url, token)
        async with await asking as answer:
            assert answer.status == 200
        assert await stage.until(lambda: observer.figures().events == 1, 20)
        async with session.post(
            f"{stage.direct_url}/demo/say", json={"content": "", "user_ids": 1}
        ) as answer:
            assert answer.status == 400


@in_loop
async def test_the_parts_of_the_incident_start_once_and_their_pane_is_a_user_that_sends() -> None:
    require("nats-server")
    async with staged(0) as stage, aiohttp.ClientSession() as session:

        async def ask(url: str, **body: object) -> dict[str, object]:
            async with session.post(url, json=body) as answer:
                assert answer.status == 200
                return dict(await answer.json())

        assert await ask(f"{stage.proxy_url}/demo/incident/tries") == {}, "nothing is there yet"
        parts, again = await asyncio.gather(*(ask(f"{stage.proxy_url}/demo/incident") for _ in range(2)))
        assert parts == again
        for side, heard in (("direct_url", []), ("proxy_url", ["hi"])):
            me = await ask(f"{parts[side]}/demo/join")
            observer = await stage.open(str(parts[side]), str(me["access_token"]))
            await ask(f"{parts[side]}/demo/say", **me, content="hi")
            if heard:
                assert await stage.until(lambda observer=observer: observer.contents, 20)
            assert list(observer.contents) == heard
        async with session.post(f"{parts['direct_url']}/demo/say", json={"content": "hi"}) as answer:
            assert answer.status == 400
        tried = await ask(f"{stage.proxy_url}/demo/incident/tries")
        assert tried == {"tries": 100, "direct": 0, "proxied": 100}


@in_loop
async def test_a_direct_stream_is_opened_again_only_after_its_end() -> None:
    async with staged(0) as stage, aiohttp.ClientSession() as session:
        first, proxied = stage.direct, stage.proxied
        for wanted in (True, False):
            async with session.post(f"{stage.direct_url}/demo/direct", data="{}") as answer:
                assert answer.status == 200
            assert (stage.direct is first) is wanted
            assert stage.direct.figures().life is Life.SILENT
            if wanted:
                stage.send("hi")
                assert await stage.until(lambda: first.figures().end is not None, 20)
        assert stage.proxied is proxied


@in_loop
async def test_stopping_during_an_outage_leaves_nothing_open() -> None:
    async with staged(0) as stage:
        stage._outage()
        assert await stage.until(lambda: stage.direct.figures().end is not None, 20)
        stage._outage()
        stage._restart()
        assert stage.direct.figures().end is not None, "one thing at a time"


@in_loop
async def test_stopping_during_a_start_over_leaves_nothing_open() -> None:
    async with staged(0) as stage:
        stage._restart()
        stage._restart()
        assert stage.proxied.figures().life is Life.CONNECTING
    await asyncio.sleep(0)


@in_loop
async def test_a_taken_port_is_refused_when_it_was_asked_for_and_replaced_when_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"127.0.0.1:{port}"):
            async with staged(port):
                pass
        monkeypatch.setattr(stage_module, "DEFAULT_PORT", port)
        async with staged() as stage:
            assert stage.moved
            assert stage.proxy_url != f"http://127.0.0.1:{port}"
