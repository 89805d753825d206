"""A browser's EventSource through nginx with its defaults and the proxy with `config.example.yaml`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from sse_keepalive_proxy.demo.knobs import Knobs
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from tests.support.browser import Tab, browsing
from tests.support.hops import nginx
from tests.support.looping import run
from tests.support.programs import require
from tests.support.running import soon
from tests.support.stand_in import healing, listening, new_user, restarted, say

PINGS = "sse_proxy_pings_sent_total"
RECONNECTS = "sse_proxy_upstream_reconnects_total"

# The page of facts.md#notify-server-page: `onmessage` only, 10 s to open, dead after any error or end.
PAGE = """<!doctype html><title>client</title><script>
const client = {opened: false, heard: [], pings: 0, dead: null};
const source = new EventSource(new URLSearchParams(location.search).get("stream"));
const late = setTimeout(() => die("not open in 10 s"), 10000);
source.onopen = () => { client.opened = true; clearTimeout(late); };
source.onmessage = (event) => {
  const type = JSON.parse(event.data).type;
  if (type === "ping") client.pings += 1; else client.heard.push(type);
};
source.onerror = () => die("error");
function die(why) { client.dead ??= why; source.close(); }
</script>"""


async def _page(_: web.Request) -> web.StreamResponse:
    return web.Response(text=PAGE, content_type="text/html")


PAGES = {"/demo/client": _page}


class Clients:
    """Pages with that client, each in a frame of one tab."""

    def __init__(self, tab: Tab, notify: NotifyServer) -> None:
        self._tab, self._notify = tab, notify

    async def open(self, *origins: str) -> list[str]:
        """Load the page from each origin, with the stream of a new user there; the frames' URLs."""
        frames = [f"{origin}/demo/client?stream={quote(new_user(self._notify)[1])}" for origin in origins]
        html = "".join(f"<iframe src='{frame}'></iframe>" for frame in frames)
        await self._tab.ask("about:blank", f"document.body.innerHTML = `{html}`")
        return frames

    async def until(self, frame: str, expression: str, within: float = 40.0) -> None:
        """Wait until something is true of a client."""
        await self._tab.until(frame, f"typeof client === 'object' && ({expression})", within)

    async def all_heard(self, frames: Sequence[str], messages: int) -> None:
        """Wait until each of these clients has heard so many messages."""
        heard = f"client.heard.filter(type => type === 'new_message').length === {messages}"
        await asyncio.gather(*(self.until(frame, heard) for frame in frames))

    async def state(self, frame: str) -> dict[str, object]:
        """Whether it opened, what it heard except pings, what it died of."""
        state: dict[str, object] = await self._tab.ask(frame, "client")
        return {key: value for key, value in state.items() if key != "pings"}


def test_a_page_hears_the_confirm_stays_open_while_upstream_is_silent_and_hears_a_later_event(
    tmp_path: Path,
) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        quiet = Knobs(ping_interval=None, heartbeat_interval=None)
        async with healing(tmp_path, "healthy", quiet, PAGES, interval="1s") as (notify, proxy):

            async def pings(more: int) -> None:
                sent = proxy.metric(PINGS, route="events", form="event")
                await asyncio.to_thread(
                    proxy.wait_for_metric, PINGS, sent + more, 30, route="events", form="event"
                )

            with nginx(tmp_path, proxy.url) as (front,):
                async with browsing(tmp_path) as tab:
                    clients = Clients(tab, notify)
                    (frame,) = await clients.open(front)
                    # Ours, and what upstream says in this mode, which would be no help under its own name.
                    await clients.until(frame, "client.heard.length === 2")
                    heard = ["connection_confirmed"] * 2
                    await pings(3)
                    assert await clients.state(frame) == {"opened": True, "heard": heard, "dead": None}
                    say(notify, "hi")
                    await clients.until(frame, "client.heard.length === 3")
                    await pings(2)
                    heard.append("new_message")
                    assert await clients.state(frame) == {"opened": True, "heard": heard, "dead": None}
                    assert notify.hub.opened_total == 1
                    assert tab.errors == []

    run(story(), within=180)


def test_the_client_of_the_field_dies_without_the_proxy_and_with_it_outlives_every_end_of_upstream(
    tmp_path: Path,
) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        patient = Knobs(freezes=False)  # clients leave that have no proxy
        async with healing(tmp_path, knobs=patient, pages=PAGES, interval="1s") as (notify, proxy):
            hasty_folder = tmp_path / "hasty"
            hasty_folder.mkdir()
            with (
                nginx(tmp_path, notify.url, proxy.url) as (bare, healed),
                nginx(hasty_folder, notify.url, proxy.url, more="proxy_read_timeout 3s;") as (
                    hasty_bare,
                    hasty_healed,
                ),
            ):
                async with browsing(tmp_path) as tab:
                    clients = Clients(tab, notify)
                    direct, held, cut, *living = await clients.open(
                        notify.url, bare, hasty_bare, healed, hasty_healed
                    )
                    await asyncio.gather(
                        clients.until(direct, "client.opened"),
                        clients.until(held, "client.dead"),
                        clients.until(cut, "client.dead"),
                        *(clients.until(frame, "client.heard.length === 1") for frame in living),
                    )
                    assert [await clients.state(frame) for frame in (direct, held, cut)] == [
                        {"opened": True, "heard": [], "dead": None},  # as far as it can know
                        {"opened": False, "heard": [], "dead": "not open in 10 s"},
                        {"opened": True, "heard": [], "dead": "error"},
                    ]
                    alive = {"opened": True, "heard": ["connection_confirmed"], "dead": None}
                    assert [await clients.state(frame) for frame in living] == [alive, alive]

                    await listening(notify, 3)
                    say(notify, "hi")  # upstream ends each stream behind it
                    await clients.until(direct, "client.dead")
                    assert await clients.state(direct) == {"opened": True, "heard": [], "dead": "error"}
                    await clients.all_heard(living, messages=1)
                    await listening(notify, 2)
                    await restarted(notify)
                    for messages in (2, 3, 4):
                        await listening(notify, 2)
                        say(notify, "hi again")
                        await clients.all_heard(living, messages)
                    heard = ["connection_confirmed", *["new_message"] * 4]
                    for frame in living:
                        assert await clients.state(frame) == {"opened": True, "heard": heard, "dead": None}
                    assert proxy.metric(RECONNECTS, route="events", result="reopened") >= 8

    run(story(), within=180)


def test_the_client_of_the_field_outlives_a_repaired_server_that_delivers_to_nobody(
    tmp_path: Path,
) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        often = Knobs(ping_interval=1.0, heartbeat_interval=0.3)
        times = {"stall_after": "2s", "stall_sign_of_life": "events"}
        async with (
            healing(tmp_path, "fixed", often, PAGES, **times) as (notify, proxy),
            browsing(tmp_path) as tab,
        ):
            clients = Clients(tab, notify)
            direct, healed = await clients.open(notify.url, proxy.url)
            await clients.until(direct, "client.opened")
            await clients.until(healed, "client.heard.includes('heartbeat')")
            await soon(lambda: not any(stream.registered for stream in notify.hub.streams))
            assert say(notify, "hi").delivered == 0
            stalls = "sse_proxy_upstream_stalls_total"
            await asyncio.to_thread(proxy.wait_for_metric, stalls, 1, 30, route="events")
            await restarted(notify)
            await clients.until(direct, "client.dead")
            confirmed = "client.heard.filter(type => type === 'connection_confirmed').length"
            await clients.until(healed, f"{confirmed} >= 3")  # ours, and each upstream's
            await asyncio.to_thread(
                proxy.wait_for_metric, RECONNECTS, 1, 30, route="events", result="reopened"
            )
            assert await clients.state(direct) == {"opened": True, "heard": [], "dead": "error"}
            state = await clients.state(healed)
            assert (state["opened"], state["dead"]) == (True, None)

    run(story(), within=180)


def test_the_client_of_the_field_is_answered_before_it_gives_up_however_slow_upstreams_pools_are(
    tmp_path: Path,
) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        slow = Knobs(header_delay=12.0, freezes=False)  # the direct client leaves
        async with (
            healing(tmp_path, knobs=slow, pages=PAGES) as (notify, proxy),
            browsing(tmp_path) as tab,
        ):
            clients = Clients(tab, notify)
            direct, healed = await clients.open(notify.url, proxy.url)
            await clients.until(direct, "client.dead")
            assert await clients.state(direct) == {
                "opened": False,
                "heard": [],
                "dead": "not open in 10 s",
            }
            await clients.until(healed, "client.heard.length === 1")
            alive = {"opened": True, "heard": ["connection_confirmed"], "dead": None}
            assert await clients.state(healed) == alive
            await listening(notify)
            say(notify, "hi")
            await clients.all_heard([healed], 1)

    run(story(), within=180)
