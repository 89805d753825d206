"""A wait that the other tests fill: it begins with the first of them and is asked for by one of the last."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.idle_connection import IdleConnection, waiting


@pytest.fixture(scope="session")
def idle_connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdleConnection]:
    """A connection that has been idle since the first integration test of this session."""
    with waiting(tmp_path_factory.mktemp("idle")) as connection:
        yield connection


@pytest.fixture(scope="session", autouse=True)
def _wait_from_the_start(request: pytest.FixtureRequest) -> None:
    """Have it begin now if any test will ask for it."""
    if any("idle_connection" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("idle_connection")
