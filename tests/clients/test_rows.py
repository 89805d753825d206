"""Real client libraries, directly at a scripted server and through the proxy: the oldest and the newest of
each family. `make clients` plays all rows.

Under CI the libraries are installed; elsewhere a row whose library is not there is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.install import installed, is_installed
from tests.clients.matrix import ROWS, Row
from tests.clients.page import reason
from tests.clients.play import play
from tests.clients.results import result_of
from tests.support.looping import run

CHOSEN = [row for row in ROWS if row.ci]


@pytest.fixture(scope="module", autouse=True)
def _libraries(request: pytest.FixtureRequest) -> None:
    """Install what the chosen tests need at once: installing waits for the network most of the time."""
    if not os.environ.get("CI"):
        return
    rows: Sequence[Row] = [
        item.callspec.params["row"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(installed, row) for row in rows]:
            done.exception()  # the row's own test says what has failed


@pytest.mark.parametrize("row", CHOSEN, ids=lambda row: row.title)
def test_the_user_of_a_library_sees_the_same_through_the_proxy_and_an_error_as_an_error(
    row: Row, tmp_path: Path
) -> None:
    if not os.environ.get("CI") and not is_installed(row):
        pytest.skip(f"{row.requires[0]} is not installed (make clients)")

    async def story() -> None:
        result = result_of(await play(row, tmp_path))
        assert [each for each in result.differs if not reason(result, each)] == []

    run(story(), within=400)
