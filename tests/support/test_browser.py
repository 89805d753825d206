"""A tab that is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.browser import browsing, tabs
from tests.support.looping import in_loop
from tests.support.programs import require


@in_loop
async def test_an_answer_that_comes_after_its_asker_has_given_up_is_dropped(tmp_path: Path) -> None:
    require("chromium", "google-chrome")
    async with browsing(tmp_path) as tab:
        with pytest.raises(TimeoutError):
            await tab.until("about:blank", "new Promise(done => setTimeout(done, 500))", within=0.1)
        later = "new Promise(done => setTimeout(() => done('later'), 1000))"
        assert await tab.ask("about:blank", later) == "later"


@in_loop
async def test_a_tab_with_a_window_of_its_own_is_hidden_and_shown_and_no_other_with_it(
    tmp_path: Path,
) -> None:
    require("chromium", "google-chrome")
    async with tabs(tmp_path, 2, apart=True) as (one, two):
        for tab in (one, two):
            assert await tab.ask("about:blank", "document.visibilityState") == "visible"
            noting = (
                "window.seen = []; document.onvisibilitychange = () => seen.push(document.visibilityState)"
            )
            await tab.ask("about:blank", noting)
        await one.hide()
        await one.until("about:blank", "seen.at(-1) === 'hidden'")
        await one.show()
        await one.until("about:blank", "seen.at(-1) === 'visible'")
        assert await one.ask("about:blank", "seen") == ["hidden", "visible"]
        assert await two.ask("about:blank", "seen") == []


@in_loop
async def test_timers_of_a_page_run_only_when_its_stopped_clock_is_moved(tmp_path: Path) -> None:
    require("chromium", "google-chrome")
    page = "data:text/html,<script>var ran=[], again=()=>ran.push(setTimeout(again, 400))</script>"
    async with browsing(tmp_path) as tab:
        await tab.stop_clock()
        await tab.call("Page.navigate", url=page)
        await tab.until(page, "typeof again === 'function'")
        await tab.ask(page, "setTimeout(again, 400); clearTimeout(setTimeout(again, 1)); 0")
        assert await tab.ask(page, "ran.length") == 0
        await tab.advance(0.399)
        assert await tab.ask(page, "ran.length") == 0
        await tab.advance(1.0)
        assert await tab.ask(page, "ran.length") == 3
