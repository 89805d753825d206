"""Configurations written in tests, and what is said about them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from sse_keepalive_proxy.config import Loaded, Overrides, Stream, load
from sse_keepalive_proxy.errors import ConfigurationError, Problem

NOTHING_OVERRIDDEN = Overrides()

VALID = """\
upstreams:
  notify: {url: http://notify:6687}
routes:
  - name: events
    match: {path: /events}
    upstream: notify
    stream:
"""


def loaded(
    text: str | bytes,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Overrides = NOTHING_OVERRIDDEN,
) -> Loaded:
    """What `load` makes of a file with this text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else dedent(text).encode())
        return load(path, environ=environ or {}, overrides=overrides)


def refused(
    text: str | bytes,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Overrides = NOTHING_OVERRIDDEN,
) -> tuple[Problem, ...]:
    """The problems of a file with this text; the test fails when it has none."""
    with pytest.raises(ConfigurationError) as caught:
        loaded(text, environ=environ, overrides=overrides)
    return caught.value.problems


def said(problems: tuple[Problem, ...]) -> list[str]:
    """The problems as an operator reads them, the folder left out."""
    return [
        str(problem).rsplit("/config.yaml", 1)[-1] if problem.file else str(problem) for problem in problems
    ]


def stream_of(lines: str, *, before: str = "") -> Stream:
    """The stream section of a valid configuration with these lines in it."""
    stream = loaded(before + VALID + _indented(lines)).settings.routes[0].stream
    assert stream is not None
    return stream


def stream_problems(lines: str, *, before: str = "") -> list[str]:
    """What is said of a valid configuration with these lines in its stream section."""
    return said(refused(before + VALID + _indented(lines)))


def _indented(lines: str) -> str:
    return "".join(f"      {line}\n" for line in dedent(lines).strip("\n").splitlines())
