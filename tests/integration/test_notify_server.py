"""The first user's acceptance: its browser client on a raw socket, `config.example.yaml`, and notify-server
in both builds (facts.md#notify-server-builds). In Chromium: `test_chromium`.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sse_keepalive_proxy.demo.knobs import Knobs
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from tests.support.instance import EVENT_SOURCE
from tests.support.looping import in_loop
from tests.support.proxy_process import ProxyProcess
from tests.support.raw_client import RawClient
from tests.support.running import soon
from tests.support.stand_in import event_source, healing, listening, new_user, pings, said, say

EVERY_BUILD = pytest.mark.parametrize("mode", ["silent", "fixed"])


def heard(client: RawClient) -> list[str]:
    """The messages that `onmessage` has shown, in order."""
    return [data["content"] for data in said(client) if data["type"] == "new_message"]


def told(client: RawClient, name: str) -> list[Any]:
    """The data of the proxy's own events of that name, which `onmessage` never shows."""
    return [json.loads(event.data) for event in client.events if event.type == name]


def gaps(client: RawClient) -> list[str]:
    """Why upstream was lost, as the client was told each time."""
    return [gap["reason"] for gap in told(client, "stream_recovered")]


async def tell(notify: NotifyServer, client: RawClient, content: str) -> None:
    """Upstream has something to say, and the client hears it."""
    await listening(notify)
    say(notify, content)
    await client.wait_for(lambda client: content in heard(client))


def count(proxy: ProxyProcess, name: str, **labels: str) -> float:
    return proxy.metric(f"sse_proxy_{name}", route="events", **labels)


async def until_counted(proxy: ProxyProcess, name: str, value: float, **labels: str) -> None:
    await asyncio.to_thread(proxy.wait_for_metric, f"sse_proxy_{name}", value, route="events", **labels)


@EVERY_BUILD
@in_loop
async def test_the_bytes_that_bring_the_head_bring_an_event_that_onmessage_hears(
    mode: str, tmp_path: Path
) -> None:
    async with (
        healing(tmp_path, mode) as (notify, proxy),
        await event_source(proxy.url, notify) as client,
    ):
        await client.wait_for(lambda client: client.events)
        assert client.arrivals[0].data.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection_confirmed" in client.arrivals[0].data
        assert said(client)[0]["type"] == "connection_confirmed"


@in_loop
async def test_every_message_arrives_although_upstream_ends_the_stream_after_each(tmp_path: Path) -> None:
    async with healing(tmp_path) as (notify, proxy), await event_source(proxy.url, notify) as client:
        messages = [f"message {number}" for number in range(6)]
        for message in messages:
            await tell(notify, client, message)
        await client.wait_for(lambda client: len(gaps(client)) == len(messages))
        assert heard(client) == messages
        assert gaps(client) == ["upstream_end"] * len(messages)
        assert client.ending is None
        assert count(proxy, "upstream_eof_after_first_event_total") == len(messages)
        assert count(proxy, "upstream_reconnects_total", result="reopened") == len(messages)
        (group,) = proxy.streams()["groups"]
        assert group["reconnects"] == len(messages)


ZOMBIE = Knobs(ping_interval=0.3, heartbeat_interval=0.2)
WITHOUT_NATS = {"stall_sign_of_life": "events"}  # NATS would say what upstream has not delivered


@in_loop
async def test_a_zombie_is_counted_as_stalled_and_a_new_connection_brings_the_next_message(
    tmp_path: Path,
) -> None:
    async with (
        healing(tmp_path, "healthy", ZOMBIE, stall_after="3s", **WITHOUT_NATS) as (notify, proxy),
        await event_source(proxy.url, notify) as client,
    ):
        await tell(notify, client, "the last that this connection brings")
        (stream,) = notify.hub.streams
        stream.registered = False  # this server seldom loses a user's place
        assert count(proxy, "upstream_stalled_streams") == 0
        await until_counted(proxy, "upstream_stalled_streams", 1)

        await client.wait_for(lambda client: gaps(client) == ["stalled"])
        types = [data["type"] for data in said(client)]
        await client.wait_for(lambda client: len(said(client)) > len(types) + 2)  # heartbeats
        assert count(proxy, "upstream_stalled_streams") == 1  # a new connection proves nothing yet
        assert count(proxy, "upstream_stall_recoveries_total") == 0
        await tell(notify, client, "the first of the new one")
        await until_counted(proxy, "upstream_stall_recoveries_total", 1)
        assert count(proxy, "upstream_stalled_streams") == 0
        assert client.ending is None


@in_loop
async def test_the_fixed_build_delivers_to_nobody_and_its_stalled_streams_stay_open(tmp_path: Path) -> None:
    async with (
        healing(tmp_path, "fixed", ZOMBIE, stall_after="1s", **WITHOUT_NATS) as (notify, proxy),
        await event_source(proxy.url, notify) as client,
    ):
        for reopened in (0, 1, 2):
            await client.wait_for(lambda client, count=reopened: len(gaps(client)) >= count)
            await soon(lambda: notify.hub.streams and not any(s.registered for s in notify.hub.streams))
            assert say(notify, "to nobody").delivered == 0
        await until_counted(proxy, "upstream_stalled_streams", 1)
        assert set(gaps(client)) == {"stalled"}
        assert {data["type"] for data in said(client)} == {"connection_confirmed", "heartbeat"}
        assert count(proxy, "upstream_stall_recoveries_total") == 0
        assert client.ending is None


@EVERY_BUILD
@in_loop
async def test_a_restart_of_upstream_is_a_gap_and_no_end(mode: str, tmp_path: Path) -> None:
    async with (
        healing(tmp_path, mode, interval="300ms") as (notify, proxy),
        await event_source(proxy.url, notify) as client,
    ):
        await client.wait_for(lambda client: said(client))
        await notify.stop()
        await until_counted(proxy, "upstream_reconnects_total", 2, result="failed")
        before = pings(client.body)
        # Nobody waits in silence.
        await client.wait_for(lambda client: pings(client.body) > before)
        await notify.start(port=notify.port)
        await client.wait_for(lambda client: told(client, "stream_recovered"))
        if mode == "silent":  # the other one delivers to nobody
            await tell(notify, client, "back again")
        gap, *_ = told(client, "stream_recovered")
        assert gap["reason"] == "upstream_reset"
        assert gap["gap_ms"] > 0
        assert gap["resumed"] is False  # this server knows no ids
        assert client.ending is None


@in_loop
async def test_a_client_that_comes_while_upstream_restarts_gets_its_stream(tmp_path: Path) -> None:
    async with healing(tmp_path) as (notify, proxy):
        await notify.stop()
        async with await event_source(proxy.url, notify) as client:
            await until_counted(proxy, "upstream_errors_total", 2, kind="refused")
            assert client.received == b""  # a status is never guessed
            await notify.start(port=notify.port)
            await client.wait_for(lambda client: said(client))
            assert client.response.status == 200
            assert gaps(client) == []  # it has missed nothing
            await tell(notify, client, "hello")


@in_loop
async def test_slow_pools_of_upstream_do_not_keep_the_client_from_its_head(tmp_path: Path) -> None:
    knobs = Knobs(header_delay=1.5)
    async with (
        healing(tmp_path, knobs=knobs, early_commit_after="200ms") as (notify, proxy),
        await event_source(proxy.url, notify) as client,
    ):
        await client.wait_for(b":ok\n")
        assert not any(stream.answered for stream in notify.hub.streams)
        assert client.response.status == 200
        assert said(client) == []  # only upstream's answer confirms (behaviour.md#first-byte-with-the-head)
        await client.wait_for(lambda client: said(client))
        assert said(client)[0]["type"] == "connection_confirmed"
        await tell(notify, client, "hi")


@in_loop
async def test_a_token_that_upstream_takes_no_more_ends_the_stream_and_says_so(tmp_path: Path) -> None:
    async with healing(tmp_path) as (notify, proxy), await event_source(proxy.url, notify) as client:
        await listening(notify)
        notify.set_knobs(status=401)
        say(notify, "the last")
        await client.wait_end()
        assert heard(client) == ["the last"]
        assert told(client, "stream_closing") == [{"type": "stream_closing", "reason": "unauthorized"}]
        assert client.response.complete
        await until_counted(proxy, "streams_closed_total", 1, reason="unauthorized")


@in_loop
async def test_two_pages_of_one_user_share_the_slot_and_both_hear_every_message(tmp_path: Path) -> None:
    async with healing(tmp_path) as (notify, proxy):
        user, target = new_user(notify)
        refreshed = f"/events?access_token={notify.token(user, lifetime=1000)}"
        async with await RawClient.connect(proxy.url) as one, await RawClient.connect(proxy.url) as two:
            for client, path in ((one, target), (two, refreshed)):
                client.request(path, EVENT_SOURCE)
                await client.wait_for(lambda client: said(client))
            for number in range(3):
                await tell(notify, one, f"message {number}")
                for page in (one, two):
                    await page.wait_for(lambda client, so_far=number: len(gaps(client)) > so_far)
            assert heard(one) == heard(two) == ["message 0", "message 1", "message 2"]
            assert gaps(one) == gaps(two) == ["upstream_end"] * 3
            assert notify.hub.opened_total == 5  # each token once, and after each event
            assert (one.ending, two.ending) == (None, None)


@in_loop
async def test_a_page_that_was_away_hears_what_was_said_meanwhile(tmp_path: Path) -> None:
    async with healing(tmp_path) as (notify, proxy):
        _, target = new_user(notify)
        async with await RawClient.connect(proxy.url) as page:
            page.request(target, EVENT_SOURCE)
            await listening(notify)
            await tell(notify, page, "message 0")
            last_id = page.stream.last_event_id
        await until_counted(proxy, "streams_closed_total", 1, reason="client_gone")
        for number in (1, 2):
            await listening(notify)
            say(notify, f"message {number}")
        await listening(notify)
        async with await RawClient.connect(proxy.url) as page:
            page.request(target, EVENT_SOURCE, f"Last-Event-ID: {last_id}")
            await page.wait_for(lambda client: len(heard(client)) == 2)
            await tell(notify, page, "message 3")
            assert heard(page) == ["message 1", "message 2", "message 3"]
            assert told(page, "stream_gap") == []


# A client that leaves (facts.md#notify-server-freeze).


async def left(notify: NotifyServer, proxy: ProxyProcess) -> None:
    """A client that has had no event leaves, and the proxy has noticed it."""
    async with await event_source(proxy.url, notify) as client:
        await client.wait_for(lambda client: client.events)
    await until_counted(proxy, "streams_closed_total", 1, reason="client_gone")


@in_loop
async def test_a_client_that_leaves_freezes_nobody_because_its_stream_is_held(tmp_path: Path) -> None:
    async with healing(tmp_path) as (notify, proxy), await event_source(proxy.url, notify) as client:
        await listening(notify)
        await left(notify, proxy)
        await until_counted(proxy, "upstream_held_streams", 1)
        assert [each["state"] for each in proxy.streams()["groups"]].count("lingering") == 1
        assert say(notify, "to both").delivered == 2
        await client.wait_for(lambda client: heard(client) == ["to both"])
        await listening(notify, 2)  # what the event has ended is open again, also for who may come back
        await until_counted(proxy, "upstream_held_streams", 1)
        assert not notify.hub.frozen


@in_loop
async def test_a_client_that_leaves_before_the_head_freezes_nobody_either(tmp_path: Path) -> None:
    async with healing(tmp_path, knobs=Knobs(header_delay=1.0)) as (notify, proxy):
        async with await event_source(proxy.url, notify):
            await notify.wait_open(1)
        await until_counted(proxy, "upstream_held_streams", 1)
        await listening(notify)
        assert say(notify, "to one that has left").delivered == 1
        await until_counted(proxy, "upstream_held_streams", 0)
        assert not notify.hub.frozen


@in_loop
async def test_without_hold_a_client_that_leaves_freezes_everybody(tmp_path: Path) -> None:
    async with (
        healing(tmp_path, hold="off", linger="1ms", early_commit_after="200ms") as (notify, proxy),
        await event_source(proxy.url, notify) as client,
    ):
        await listening(notify)
        await left(notify, proxy)
        await listening(notify)
        say(notify, "to both")
        assert notify.hub.frozen
        async with await event_source(proxy.url, notify) as late:
            await late.wait_for(b":ok")  # the early commit
        assert heard(client) == []
