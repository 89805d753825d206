"""The page in a real browser: what its two panes see of the same stream."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sse_keepalive_proxy.demo import nats_server as nats_module
from sse_keepalive_proxy.demo.stage import Stage, staged
from tests.support.browser import Tab, browsing
from tests.support.looping import run
from tests.support.programs import require

HEARD = "[...document.querySelectorAll('li.heard')].map(line => line.innerText).join(' | ')"
GAPS = "[...document.querySelectorAll('li.gap')].map(line => line.innerText).join(' | ')"
STATE = "document.body.dataset.state"


async def opened(stage: Stage, tab: Tab) -> tuple[str, str, str]:
    """Load the page; the URLs of its three frames: the page, the direct pane and the proxied one."""
    page = f"{stage.proxy_url}/demo/"
    await tab.call("Page.navigate", url=page)
    return (
        page,
        f"{stage.direct_url}/demo/pane?side=direct",
        f"{stage.proxy_url}/demo/pane?side=proxied",
    )


def test_the_direct_pane_stays_silent_and_the_proxied_one_receives_its_confirm(tmp_path: Path) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        async with staged(0) as stage, browsing(tmp_path) as tab:
            page, direct, proxied = await opened(stage, tab)
            await tab.until(direct, f"{STATE} === 'silent'")  # for 15 s
            await tab.until(proxied, f"{STATE} === 'alive'")
            assert "connection_confirmed" in await tab.ask(proxied, HEARD)
            # The wire: the proxied stream has bytes and pings to show, the direct one has nothing.
            await tab.until(proxied, "document.querySelectorAll('#strip .ping').length >= 1")
            assert await tab.ask(direct, "document.querySelectorAll('#strip rect').length") == 0
            assert "none in" in await tab.ask(direct, "document.getElementById('wire').innerText")
            assert await tab.ask(direct, "document.getElementById('last').innerText") == "never"

            await click(tab, page, "send")
            await tab.until(proxied, f"{HEARD}.includes('new_message: “Hello, are you there?”')")
            await tab.until(direct, f"{STATE} === 'dead'")
            await tab.until(
                direct,
                "document.querySelector('li.unheard')?.innerText.includes('does not receive it')",
            )
            assert "new_message" not in await tab.ask(direct, HEARD)
            await tab.until(page, "document.getElementById('said').innerText.includes('its own bug')")
            await tab.until(proxied, f"{GAPS}.includes('(upstream_end)')")
            assert await tab.ask(proxied, STATE) == "alive"

            await click(tab, page, "send")
            await tab.until(proxied, f"{HEARD}.includes('new_message: “Still there?”')")
            await tab.until(page, "document.getElementById('said').innerText.includes('no client is left')")
            assert tab.errors == []

            await click(tab, page, "restart")
            await tab.until(direct, f"{STATE} === 'silent'")
            await tab.until(proxied, f"{STATE} === 'alive' && !{HEARD}.includes('new_message')")
            assert tab.errors == []

    run(story(), within=180)


async def click(tab: Tab, page: str, button: str) -> None:
    """Click one of the page's buttons as soon as it can be."""
    await tab.until(page, f"document.getElementById('{button}')?.disabled === false")
    await tab.ask(page, f"document.getElementById('{button}').click()")


def test_a_restart_of_upstream_kills_a_new_direct_client_and_the_proxied_one_receives_later_messages(
    tmp_path: Path,
) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        async with staged(0) as stage, browsing(tmp_path) as tab:
            page, direct, proxied = await opened(stage, tab)
            await tab.until(direct, f"{STATE} === 'silent'")
            await tab.until(proxied, f"{STATE} === 'alive'")
            await click(tab, page, "send")
            await tab.until(
                direct, f"{STATE} === 'dead' && document.body.innerText.includes('named Generic')"
            )

            await click(tab, page, "outage")
            await tab.until(page, "document.getElementById('said').innerText.includes('Upstream is back')")
            assert stage.restarts == 1
            await tab.until(
                direct, f"{STATE} === 'dead' && !document.body.innerText.includes('named Generic')"
            )
            assert "the stream ended" in await tab.ask(direct, "document.body.innerText")

            await click(tab, page, "send")
            await tab.until(proxied, f"{HEARD}.includes('new_message: “Still there?”')")
            assert "(upstream_reset)" in await tab.ask(proxied, GAPS)
            assert await tab.ask(proxied, STATE) == "alive"
            # The browser itself complains of every request that is not answered while upstream is away.
            assert [error for error in tab.errors if not error.startswith("Failed to load resource")] == []

    run(story(), within=180)


SAID = "document.getElementById('said').innerText"
UNHEARD = "[...document.querySelectorAll('li.unheard')].map(line => line.innerText).join(' | ')"


async def panes(tab: Tab, page: str, *ids: str) -> list[str]:
    """The URLs that the page has given to its panes."""
    return [await tab.ask(page, f"document.getElementById('{each}').src") for each in ids]


def test_two_tabs_of_a_user_both_hear_every_message_and_direct_ones_take_each_other_s_place(
    tmp_path: Path,
) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        async with staged(0) as stage, browsing(tmp_path) as tab:
            page, _, proxied = await opened(stage, tab)
            await tab.until(proxied, f"{STATE} === 'alive'")
            await click(tab, page, "tabs")
            await tab.until(page, f"{SAID}.startsWith('Two tabs of one user')")
            await click(tab, page, "send")
            await tab.until(page, f"{SAID}.includes('Hello, are you there?')")
            direct, *rest = await panes(tab, page, "direct", "direct2", "proxied", "proxied2")
            second, *both = rest
            assert "first tab" in await tab.ask(direct, "document.getElementById('title').innerText")
            await tab.until(direct, f"{STATE} === 'dead'")
            await tab.until(second, f"{STATE} === 'dead'")
            assert await tab.ask(direct, UNHEARD) == ""
            assert "new_message" not in await tab.ask(second, HEARD)
            for each in both:
                for content in ("Do both tabs hear this?", "Hello, are you there?"):
                    await tab.until(each, f"{HEARD}.split('new_message: “{content}”').length === 2")
                assert await tab.ask(each, STATE) == "alive"
            assert tab.errors == []

            await click(tab, page, "restart")
            await tab.until(page, "document.getElementById('proxied2').offsetParent === null")

    run(story(), within=180)


def test_a_page_that_was_offline_gets_what_it_has_missed_through_the_proxy_only(tmp_path: Path) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        async with staged(0) as stage, browsing(tmp_path) as tab:
            page, _, proxied = await opened(stage, tab)
            await tab.until(proxied, f"{STATE} === 'alive'")
            await click(tab, page, "offline")
            await tab.until(page, f"{SAID}.startsWith('Both pages are offline')", within=60)
            await tab.until(page, f"{SAID}.startsWith('Both pages are back')", within=60)
            direct, proxied = await panes(tab, page, "direct", "proxied")
            heard = (await tab.ask(proxied, HEARD)).split("new_message: ")[1:]
            contents = ["See you later!", "You are away (1)", "You are away (2)", "You are back!"]
            assert [each.partition("”")[0] for each in heard] == [f"“{each}" for each in contents]
            await tab.until(direct, f"{UNHEARD}.includes('You are back!')")
            assert "You are away" not in await tab.ask(direct, "document.body.innerText")
            # The browser itself complains of every request while the network is away.
            assert [error for error in tab.errors if not error.startswith("Failed to load resource")] == []

    run(story(), within=180)


def test_the_sender_of_the_incident_gets_its_own_message_through_the_proxy_only(tmp_path: Path) -> None:
    require("chromium", "google-chrome")
    require("nats-server")

    async def story() -> None:
        async with staged(0) as stage, browsing(tmp_path) as tab:
            page, _, plain = await opened(stage, tab)
            await tab.until(plain, f"{STATE} === 'alive'")
            await click(tab, page, "incident")
            await tab.until(page, f"{SAID}.includes('direct, 0 of 100 messages came back')", within=60)
            assert (await tab.ask(page, SAID)).endswith("takes them from NATS, 100 of 100.")
            direct, proxied = await panes(tab, page, "direct", "proxied")
            await tab.until(proxied, f"{HEARD}.includes('the message is confirmed')")
            await tab.until(direct, "document.body.innerText.includes('it stays “sent” for ever')")
            assert (await tab.ask(proxied, STATE), await tab.ask(direct, STATE)) == ("alive", "dead")
            # The other buttons are about the chat of the other scenes.
            await click(tab, page, "send")
            await tab.until(plain, f"{HEARD}.includes('new_message: “Hello, are you there?”')")
            assert tab.errors == []

    run(story(), within=180)


def test_without_a_nats_server_the_page_says_what_the_incident_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("chromium", "google-chrome")
    monkeypatch.setattr(nats_module, "shutil", SimpleNamespace(which=lambda *_, **__: None))

    async def story() -> None:
        async with staged(0) as stage, browsing(tmp_path) as tab:
            page, _, proxied = await opened(stage, tab)
            await tab.until(proxied, f"{STATE} === 'alive'")
            await click(tab, page, "incident")
            await tab.until(page, f"{SAID}.startsWith('The incident is not played: it needs nats-server')")
            assert await tab.ask(proxied, STATE) == "alive"

    run(story(), within=180)


def test_a_silent_stream_does_not_fill_the_log(tmp_path: Path) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        async with staged(0) as stage, browsing(tmp_path) as tab:
            _, _, proxied = await opened(stage, tab)
            await tab.until(proxied, f"{STATE} === 'alive'")
            await tab.until(proxied, f"{GAPS}.includes('(stalled), 2 times')", within=60)
            assert await tab.ask(proxied, "document.querySelectorAll('li.gap').length") == 1

    run(story(), within=180)


def test_in_silence_the_client_gives_the_direct_stream_up_and_keeps_the_proxied_one(
    tmp_path: Path,
) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        async with staged(0) as stage, browsing(tmp_path) as tab:
            _, direct, proxied = await opened(stage, tab)
            await tab.until(direct, f"{STATE} === 'dead'", within=60)
            assert "no message in 15 s" in await tab.ask(direct, "document.body.innerText")
            assert await tab.ask(proxied, STATE) == "alive"
            assert tab.errors == []

    run(story(), within=180)


def test_nothing_is_wider_than_a_phone(tmp_path: Path) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        async with staged(0) as stage, browsing(tmp_path) as tab:
            await tab.call(
                "Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True
            )
            page, direct, proxied = await opened(stage, tab)
            await tab.until(proxied, f"{STATE} === 'alive'")
            for frame in (page, direct, proxied):
                await tab.until(frame, "document.documentElement.scrollWidth <= innerWidth")
            # Each pane is as high as what it shows: nothing scrolls inside it.
            for pane in (direct, proxied):
                await tab.until(pane, "document.documentElement.scrollHeight <= innerHeight")

    run(story(), within=180)


def test_what_a_message_says_is_text_and_never_markup(tmp_path: Path) -> None:
    require("chromium", "google-chrome")

    async def story() -> None:
        async with staged(0) as stage, browsing(tmp_path) as tab:
            _, _, proxied = await opened(stage, tab)
            await tab.until(proxied, f"{STATE} === 'alive'")
            stage.send("<img src=x onerror=alert(1)>")
            await tab.until(proxied, f"{HEARD}.includes('<img src=x onerror=alert(1)>')")
            assert await tab.ask(proxied, "document.images.length") == 0

    run(story(), within=180)
