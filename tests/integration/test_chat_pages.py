"""The two pages of facts.md#notify-server-page in Chromium, before both builds and a real NATS, through the
proxy with `config.example.yaml`.

Real: the browser and its `EventSource`, windows that are minimised and restored, nats-server, the proxy.
Not real: the server is the stand-in; the pages are written for this test, after the listeners of those of the
field (`pages/`); and in 20 minutes of quiet the timers of a page are moved by hand, 15 s for each ping. To
the same measure the proxy's pings come sooner, and upstream stalls sooner.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from nats.aio.client import Client

from sse_keepalive_proxy.demo.answers import Handler
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from tests.integration.test_tabs_of_a_user import Page
from tests.support.browser import Tab, tabs
from tests.support.chat import listening_to_nats, publish
from tests.support.looping import run
from tests.support.nats import nats_server, publisher, send
from tests.support.programs import require
from tests.support.proxy_process import ProxyProcess
from tests.support.stand_in import CHAT, healing

ANN, BO, CLEO = MEMBERS = (2, 3, 4)
FIRST = 210  # the id of the first message
OLD, REPORT = "/demo/old", "/demo/report"
PINGS = "sse_proxy_pings_sent_total"
INTERVAL = 15  # seconds of a page: `keepalive.interval` of the example
QUIET = 20 * 60  # seconds of a page
FASTER = {"interval": "25ms", "stall_after": "200ms"}  # of the proxy: 15 s and two minutes, 600 times as fast

# In a page: 15 s pass for it with each ping that it hears, and with nothing else.
_TO_THE_PINGS = f"""new Promise(done => {{
  let left = {QUIET // INTERVAL};
  source.addEventListener("message", ({{data}}) => {{
    if (JSON.parse(data).type !== "ping" || left === 0) return;
    clock.advance({INTERVAL * 1000});
    if (--left === 0) done(true);
  }});
}})"""
_LINES = "[...document.querySelectorAll('#messages li')].map(line => line.textContent)"
PAGES = Path(__file__).parent / "pages"


class Chat:
    """The chat's own server, and what each of its members should have seen."""

    def __init__(self) -> None:
        self.nats: Client  # as soon as it is connected
        self.said: list[str] = []

    async def say(self, content: str, sender: int) -> None:
        """Publish a message to all."""
        number = FIRST + len(self.said)
        self.said.append(content)
        await publish(self.nats, number, chat=CHAT, members=MEMBERS, sender=sender, content=content)
        await self.nats.flush()

    async def take(self, request: web.Request) -> web.StreamResponse:
        """A message that a page has sent."""
        await self.say(await request.text(), ANN)
        return web.Response(status=201)


def _file(name: str) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=(PAGES / name).read_text(encoding="utf-8"), content_type="text/html")

    return answer


@asynccontextmanager
async def chatting(
    folder: Path, build: str, **values: str
) -> AsyncIterator[tuple[Chat, NotifyServer, ProxyProcess]]:
    """The chat, the server and the proxy, all connected to one NATS."""
    require("chromium", "google-chrome")
    chat = Chat()
    pages = {OLD: _file("old.html"), REPORT: _file("report.html"), "/demo/send": chat.take}
    async with AsyncExitStack() as stack:
        _, port = stack.enter_context(nats_server(folder))
        values = {**FASTER, "servers": f"nats://127.0.0.1:{port}", **values}
        notify, proxy = await stack.enter_async_context(healing(folder, build, pages=pages, **values))
        await stack.enter_async_context(listening_to_nats(port, notify.publish))
        chat.nats = await stack.enter_async_context(publisher(port))
        await asyncio.to_thread(proxy.wait_for_metric, "sse_proxy_bridge_connected", 1, 30, route="events")
        # The stand-in and its NATS are still there, so that the proxy can take leave of them.
        stack.push_async_callback(asyncio.to_thread, proxy.stop)
        yield chat, notify, proxy


async def displayed(pages: Sequence[Page], contents: list[str]) -> None:
    """Wait until each page shows the last of these messages. Each shows all of them, each once."""
    for page in pages:
        await page.until(f"client.displayed.includes({contents[-1]!r})")
        assert await page.value(_LINES) == contents


class Pages:
    """Three older pages, two of them of one user, and two of the report. Each has a window of its own."""

    def __init__(self, browser: Sequence[Tab], notify: NotifyServer, proxy: ProxyProcess) -> None:
        def page(number: int, path: str, user: int) -> Page:
            return Page(browser[number], proxy.url, notify.token(user), path)

        self.old = [page(0, OLD, ANN), page(1, OLD, BO), page(2, OLD, ANN)]
        self.reports = [page(3, REPORT, ANN), page(4, REPORT, CLEO)]
        self.all = [*self.old, *self.reports]

    async def open(self) -> None:
        """Open all of them. Their timers stand still."""
        for page in self.all:
            await page.tab.stop_clock()
            await page.open()


async def one_sends_and_all_hear(pages: Pages, chat: Chat) -> None:
    """A page sends, and each page hears it in `onmessage`, the sender too."""
    sender = pages.reports[0]
    assert await sender.value("client.send('hello')") == 201
    await displayed(pages.all, ["hello"])
    for page in pages.all:
        assert await page.value("client.heard.filter(type => type === 'new_message').length") == 1
    assert await sender.value("client.sent") == []
    for number in range(20):
        await chat.say(f"message {number}", MEMBERS[number % 3])
    await displayed(pages.all, chat.said)


async def two_are_hidden_and_shown(pages: Pages, chat: Chat, proxy: ProxyProcess) -> list[str]:
    """One tab of two, and the only one of another user, are hidden: their pages close their streams. They ask
    anew without an id when they are shown, so what is said meanwhile is not for them. Return what they show.
    """
    hidden, others = pages.old[:2], [pages.old[2], *pages.reports]
    for page in hidden:
        await page.tab.hide()
        await page.until("client.state === 'hidden'")
    gone = {"route": "events", "reason": "client_gone"}
    await asyncio.to_thread(proxy.wait_for_metric, "sse_proxy_streams_closed_total", 2, 30, **gone)
    before = list(chat.said)
    await chat.say("while two are hidden", CLEO)
    await displayed(others, chat.said)
    for page in hidden:
        confirmed = await page.value("client.confirmed")
        await page.tab.show()
        await page.until(f"client.state === 'open' && client.confirmed > {confirmed}")
    await chat.say("when they are shown", CLEO)
    await displayed(others, chat.said)
    await displayed(hidden, [*before, chat.said[-1]])
    return [*before, chat.said[-1]]


@pytest.mark.parametrize("build", ["silent", "fixed"])
def test_every_message_is_displayed_once_in_both_pages(build: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            chatting(tmp_path, build) as (chat, notify, proxy),
            tabs(tmp_path, 5, apart=True) as browser,
        ):
            pages = Pages(browser, notify, proxy)
            await pages.open()
            await one_sends_and_all_hear(pages, chat)
            shown = await two_are_hidden_and_shown(pages, chat, proxy)
            async with asyncio.timeout(60):
                quiet = await asyncio.gather(*(page.value(_TO_THE_PINGS) for page in pages.all))
            assert quiet == [True] * 5

            await chat.say("after 20 minutes", BO)  # by now, upstream's copies of the others would be there
            await displayed(pages.all[2:], chat.said)
            await displayed(pages.all[:2], [*shown, chat.said[-1]])
            for page in pages.old:
                assert await page.value("[client.state, client.overdue, client.errors]") == ["open", 0, 0]
            for page in pages.reports:
                assert await page.value("[client.state, client.polls]") == ["open", False]

            read = {"message_id": FIRST, "chat_id": CHAT, "reader_id": BO, "read_at": "2026-11-25T00:00:00Z"}
            await send(chat.nats, f"fechatter.realtime.chat.{CHAT}.read", {"MessageRead": read})
            for page in pages.old:
                await page.until("document.querySelector('[title]')?.textContent === 'hello'")
            assert not notify.hub.frozen
            assert [tab.errors for tab in browser] == [[]] * 5

    run(story(), within=120)


def test_with_comments_as_pings_the_older_page_opens_again_and_that_of_the_report_polls_without_the_proxy(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with (
            chatting(tmp_path, "silent", keepalive_form="comment") as (_, notify, proxy),
            tabs(tmp_path, 2, apart=True) as browser,
        ):
            old = Page(browser[0], proxy.url, notify.token(BO), OLD)
            direct = Page(browser[1], notify.url, notify.token(ANN), REPORT)
            for tab in browser:
                await tab.stop_clock()
            await direct.open(until="client.state === 'open'")
            await old.open()
            assert await direct.value("client.send('hello')") == 201
            await displayed([old], ["hello"])
            pings = {"route": "events", "form": "comment"}
            for number in range(1, 17):
                sent = proxy.metric(PINGS, **pings)
                await asyncio.to_thread(proxy.wait_for_metric, PINGS, sent + 1, 30, **pings)
                for tab in browser:
                    await tab.advance(INTERVAL)
                assert await old.value("client.overdue") == (number * INTERVAL > 230)
            assert await direct.value("[client.polls, client.sent, client.heard]") == [True, ["hello"], []]

    run(story(), within=120)
