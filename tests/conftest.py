"""Before any test: what is compiled must be what is written, and no example of hypothesis is too slow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.authority import Authority
from tests.support.running import OVER_TLS

PACKAGE = Path(__file__).parent.parent / "sse_keepalive_proxy"

# A slow machine, or one that stands still for a moment, makes no example wrong.
settings.register_profile(
    "any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_sessionstart() -> None:
    """A compiled module is found in the place of its source, also when that has changed since."""
    compiled = {file: file.with_name(f"{file.name.partition('.')[0]}.py") for file in PACKAGE.rglob("*.so")}
    stale = [
        source
        for file, source in compiled.items()
        if not source.exists() or source.stat().st_mtime > file.stat().st_mtime
    ]
    if stale:
        names = ", ".join(sorted(source.name for source in stale))
        pytest.exit(
            f"{names} changed since it was compiled: run `pip install -e '.[dev]'` again "
            "(with SSE_PROXY_COMPILE=1 to compile again, else it is interpreted)",
            returncode=2,
        )


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority of this session."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=["plain", "TLS"])
def on_both(request: pytest.FixtureRequest, authority: Authority) -> Iterator[None]:
    """The test runs twice: its clients speak plain HTTP, and TLS."""
    token = OVER_TLS.set(authority if request.param == "TLS" else None)
    yield
    OVER_TLS.reset(token)
