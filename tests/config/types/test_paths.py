"""Patterns found by path: what trying each of them would find, without trying each."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.config import Match, PathTable, load
from sse_keepalive_proxy.config.reading.load import Loaded
from sse_keepalive_proxy.errors import ConfigurationError

SEGMENTS = st.lists(st.sampled_from(["a", "b", "", ".."]), max_size=4)
PATTERNS = st.builds(
    lambda parts, more: "/" + "/".join([*parts, *(["*"] if more else [])]), SEGMENTS, st.booleans()
)
PATHS = st.one_of(st.builds(lambda parts: "/" + "/".join(parts), SEGMENTS), st.just("*"))


@given(st.lists(PATTERNS, max_size=8), PATHS)
def test_it_finds_what_trying_each_in_order_finds(patterns: list[str], path: str) -> None:
    table: PathTable[int] = PathTable()
    for index, pattern in enumerate(patterns):
        table.add(pattern, index)
    trying = [index for index, pattern in enumerate(patterns) if Match(path=pattern).takes_path(path)]
    assert table.taking(path) == trying


def test_a_long_path_is_compared_with_as_many_prefixes_as_there_are_lengths() -> None:
    table: PathTable[str] = PathTable()
    for pattern in ("/*", "/a/*", "/b/*", "/a/b/*"):
        table.add(pattern, pattern)
    asked: list[str] = []

    class Counting(dict[str, list[tuple[int, str]]]):
        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
            asked.append(key)
            return super().get(key, default)  # type: ignore[arg-type]

    table._prefixes = Counting(table._prefixes)
    assert table.taking("/a" * 10_000) == ["/*", "/a/*"]
    assert len(asked) == 3


def configured(folder: Path, paths: list[str]) -> Loaded:
    """A configuration with a route for each of `paths`."""
    routes = [f"  - {{name: r{n}, match: {{path: {path}}}, upstream: up}}" for n, path in enumerate(paths)]
    path = folder / "config.yaml"
    path.write_text("upstreams: {up: {url: 'http://127.0.0.1:9'}}\nroutes:\n" + "\n".join(routes) + "\n")
    return load(path, environ={})


def test_checking_routes_against_each_other_grows_with_their_number_and_not_with_its_square(
    tmp_path: Path,
) -> None:
    compared = []
    for count in (50, 500):
        with patch.object(Match, "covers", autospec=True, return_value=False) as covers:
            configured(tmp_path, [f"/r{n}/*" for n in range(count)] + ["/r0/below"])
        compared.append(covers.call_count)
    assert compared == [1, 1]


def test_thousands_of_routes_are_read_and_the_one_that_is_never_reached_is_found(tmp_path: Path) -> None:
    paths = [f"/r{n}" for n in range(4000)]
    assert len(configured(tmp_path, paths).settings.routes) == 4000
    with pytest.raises(ConfigurationError, match=r"routes\[4001\]: never reached: `r7` matches all its"):
        configured(tmp_path, [*paths, "/new", "/r7"])
