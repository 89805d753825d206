"""The environment of the commands' tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the proxy is set."""
    for name in list(os.environ):
        if name.startswith("SSE_KEEPALIVE_PROXY_"):
            monkeypatch.delenv(name)
