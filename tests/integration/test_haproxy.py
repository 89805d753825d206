"""Behind HAProxy, which ends what is silent for its timeouts and does not say so when a client leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sse_keepalive_proxy.demo.knobs import Knobs
from tests.support.hops import haproxy
from tests.support.looping import in_loop
from tests.support.stand_in import event_source, healing, pings, said, say


@in_loop
async def test_a_silent_stream_dies_of_a_timeout_of_8_seconds_and_outlives_it_through_the_proxy(
    tmp_path: Path,
) -> None:
    async with healing(tmp_path, knobs=Knobs(freezes=False), interval="2s") as (notify, proxy):
        with haproxy(tmp_path, notify.url, proxy.url, idle="8s") as (bare, healed):
            async with (
                await event_source(bare, notify) as dying,
                await event_source(healed, notify) as living,
            ):
                await living.wait_for(lambda client: client.events)
                await dying.wait_end()
                assert (dying.response.status, dying.body) == (200, b"")
                assert not dying.response.complete

                before = pings(living.body)
                await living.wait_for(lambda client: pings(client.body) > before)
                say(notify, "hi")
                await living.wait_for(b"stream_recovered")
                assert [data["type"] for data in said(living)] == ["connection_confirmed", "new_message"]


@in_loop
async def test_pings_find_out_that_a_client_has_left_which_haproxy_alone_does_not_tell(
    tmp_path: Path,
) -> None:
    async with healing(tmp_path, interval="500ms", hold="off", linger="1ms") as (notify, proxy):
        with haproxy(tmp_path, notify.url, proxy.url, idle="1m") as (bare, healed):
            async with await event_source(bare, notify) as client:
                await client.wait_head()
            async with await event_source(healed, notify) as client:
                await client.wait_for(lambda client: client.events)
                users = [stream.user_id for stream in notify.hub.streams]
            async with asyncio.timeout(30):
                await notify.wait_open(1)
            assert [stream.user_id for stream in notify.hub.streams] == users[:1]  # the bare one's
            closed = {"route": "events", "reason": "client_gone"}
            proxy.wait_for_metric("sse_proxy_streams_closed_total", 1, **closed)
