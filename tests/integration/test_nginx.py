"""Behind nginx with its defaults: HTTP/1.0 towards the server, everything buffered."""

from __future__ import annotations

from pathlib import Path

from sse_keepalive_proxy.demo.knobs import Knobs
from tests.support.hops import Tap, nginx
from tests.support.looping import in_loop
from tests.support.raw_client import RawClient
from tests.support.stand_in import event_source, healing, new_user, pings, said, say


@in_loop
async def test_a_silent_stream_that_nginx_holds_back_is_heard_at_once_and_outlives_the_read_timeout(
    tmp_path: Path,
) -> None:
    async with healing(tmp_path, knobs=Knobs(freezes=False), interval="1s") as (notify, proxy):
        with nginx(tmp_path, notify.url, proxy.url, more="proxy_read_timeout 3s;") as (bare, healed):
            async with (
                await event_source(bare, notify) as unheard,
                await event_source(healed, notify) as heard,
            ):
                await heard.wait_for(lambda client: client.events)
                assert heard.response.status == 200
                assert [data["type"] for data in said(heard)] == ["connection_confirmed"]
                assert unheard.received == b""  # both asked at the same time: not even a head

                await unheard.wait_end()  # the head at last, and then nothing
                assert (unheard.response.status, unheard.body) == (200, b"")
                assert not unheard.response.complete

                before = pings(heard.body)
                await heard.wait_for(lambda client: pings(client.body) >= before + 2)
                assert say(notify, "hi").delivered == 1
                await heard.wait_for(b"stream_recovered")
                assert [data["type"] for data in said(heard)] == ["connection_confirmed", "new_message"]
                assert heard.stream.comments == []


@in_loop
async def test_towards_nginx_a_stream_has_no_chunked_coding_and_ends_with_its_connection(
    tmp_path: Path,
) -> None:
    async with (
        healing(tmp_path, interval="500ms", reconnect_when="off", action="observe") as (notify, proxy),
        Tap(proxy.port) as tap,
    ):
        with nginx(tmp_path, tap.url) as (front,):
            async with await event_source(front, notify) as client:
                await client.wait_for(lambda client: pings(client.body) > 0)
                say(notify, "hi")
                await client.wait_for(lambda client: client.response.complete)
                assert said(client)[-1]["content"] == "hi"
                assert b" HTTP/1.0\r\n" in tap.asked
                head, _, body = bytes(tap.answered).partition(b"\r\n\r\n")
                assert b"transfer-encoding" not in head.lower()
                assert b"content-length" not in head.lower()
                assert b"\r\nConnection: close" in head
                assert body == client.body


@in_loop
async def test_what_is_no_stream_passes_nginx_and_the_proxy_unchanged(tmp_path: Path) -> None:
    async with healing(tmp_path) as (notify, proxy):
        with nginx(tmp_path, notify.url, proxy.url) as (bare, healed):
            for target, method, body in (
                ("/health", "GET", b""),
                ("/health", "HEAD", b""),
                ("/events", "GET", b""),  # 401, with its reason
                ("/nowhere", "GET", b""),
                ("/demo/publish", "POST", b"no JSON" * 10_000),
            ):
                answers = []
                for front in (bare, healed):
                    async with await RawClient.connect(front) as client:
                        client.request(target, method=method, body=body)
                        answer = await client.wait_response()
                        answers.append((answer.status, answer.header("content-type"), bytes(answer.body)))
                assert answers[0] == answers[1], target
            async with await RawClient.connect(healed) as client:
                client.request(new_user(notify)[1], method="HEAD")
                assert (await client.wait_response()).status == 405  # it would take the user's only slot
            assert notify.hub.opened_total == 0
