"""Tabs of one user in real browsers, before a server that has one place for each user and ends the stream
after each event (facts.md#notify-server-builds). The proxy runs with `config.example.yaml`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from sse_keepalive_proxy.demo.notify_server import NotifyServer
from tests.support.browser import Tab, tabs
from tests.support.looping import run
from tests.support.programs import require
from tests.support.stand_in import CHAT, healing, listening, say

__all__ = ["PAGES", "Page"]

_PAGE = """<!doctype html><title>client</title><script>
const client = {confirmed: false, heard: [], errors: 0};
const source = new EventSource(new URLSearchParams(location.search).get("stream"));
source.onmessage = (event) => {
  const data = JSON.parse(event.data);
  if (data.type === "connection_confirmed") client.confirmed = true;
  if (data.type === "new_message") client.heard.push(data.content);
};
source.onerror = () => { client.errors++; };
client.ready = () => source.readyState;
client.gaps = [];
source.addEventListener("stream_gap", (event) => client.gaps.push(event.data));
</script>"""


async def _page(_: web.Request) -> web.StreamResponse:
    return web.Response(text=_PAGE, content_type="text/html")


PAGES = {"/demo/client": _page}


class Page:
    """A page that reads the stream of a token, in a tab of its own."""

    def __init__(self, tab: Tab, origin: str, token: str, path: str = "/demo/client") -> None:
        self.tab = tab
        self._url = f"{origin}{path}?stream={quote(f'/events?access_token={token}')}"

    async def open(self, until: str = "client.confirmed") -> None:
        """Return when the stream is confirmed, or when something else is true of the client."""
        await self.tab.call("Page.navigate", url=self._url)
        await self.until(until)

    async def until(self, expression: str, within: float = 15.0) -> None:
        """Wait until something is true of the client."""
        await self.tab.until(self._url, f"typeof client === 'object' && ({expression})", within)

    async def value(self, expression: str) -> object:
        """The value of an expression there."""
        return await self.tab.ask(self._url, expression)


async def talk(notify: NotifyServer, delivered: list[str], count: int) -> None:
    """Send so many messages, each as soon as the server has a stream for it, and note them."""
    for _ in range(count):
        await listening(notify)
        content = f"message {len(delivered)}"
        assert say(notify, content).delivered == 1
        delivered.append(content)


def test_each_tab_of_a_user_hears_every_message_also_one_with_a_newer_token_in_another_browser(
    tmp_path: Path,
) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        async with (
            healing(tmp_path, pages=PAGES) as (notify, proxy),
            tabs(tmp_path, 2) as (one, two),
            tabs(elsewhere, 1) as (three,),
        ):
            user = notify.hub.join(CHAT)
            old, fresh = notify.token(user), notify.token(user, lifetime=3000)
            pages = [Page(one, proxy.url, old), Page(two, proxy.url, old)]
            for page in pages:
                await page.open()
            delivered: list[str] = []
            await talk(notify, delivered, 20)
            third = Page(three, proxy.url, fresh)
            opened = asyncio.Event()

            async def talk_on() -> None:
                while not opened.is_set():
                    await talk(notify, delivered, 1)

            talking = asyncio.create_task(talk_on())
            await third.open()
            opened.set()
            said_before = len(delivered)
            await talking
            await talk(notify, delivered, 10)
            for page in (*pages, third):
                await page.until(f"client.heard.at(-1) === {delivered[-1]!r}")
                assert await page.value("client.errors") == 0
                assert await page.value("client.ready()") == 1  # OPEN
            for page in pages:
                assert await page.value("client.heard") == delivered
            late = await third.value("client.heard")
            assert isinstance(late, list)
            assert len(late) >= len(delivered) - said_before > 0
            assert late == delivered[-len(late) :]
            assert proxy.metric("sse_proxy_share_groups", route="events") == 1

    run(story(), within=90)
