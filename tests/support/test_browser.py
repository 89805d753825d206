"""A tab that is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.browser import browsing
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
