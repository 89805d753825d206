"""Whatever is in the file, the answer is a configuration or a list of problems, one a line."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.errors import ConfigurationError, Problem
from tests.config.writing import loaded

_SCALARS = (
    st.sampled_from(
        [
            "off",
            "15s",
            "15",
            "-1",
            "true",
            "null",
            "",
            "1MiB",
            "/x/*",
            "*",
            "{now}",
            "{x",
            "${A}",
            "${B:-}",
            "a\nb",
            "\ud7ff",
            "http://a",
            "header:a",
            "[::]:1",
            "GET",
            "{claim.a}",
            "reconnect",
            "upstream",
            "jwt",
            "EdDSA",
            "/dev/zero",
            "events",
            "9" * 400,
        ]
    )
    | st.text(max_size=8)
    | st.integers()
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=True)
)
_KEYS = st.sampled_from(
    [
        "listen",
        "admin",
        "defaults",
        "upstreams",
        "routes",
        "name",
        "match",
        "path",
        "methods",
        "host",
        "upstream",
        "stream",
        "url",
        "confirm",
        "keepalive",
        "stall",
        "interval",
        "data",
        "ignore",
        "types",
        "limits",
        "drain",
        "spread",
        "timeout",
        "action",
        "credential",
        "rewrite",
        "[key]",
        "trusted_proxies",
        "cors",
        "origins",
        "identity",
        "from",
        "verify",
        "public_key_file",
        "algorithms",
        "reconnect",
        "when",
        "on_status",
        "delay",
        "early_commit",
        "after",
        "open_timeout",
    ]
) | st.text(max_size=4)
_JUNK = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=6),
    max_leaves=25,
)


@given(st.dictionaries(_KEYS, _JUNK, max_size=8))
@settings(deadline=None)
def test_junk_of_the_right_words_is_a_configuration_or_an_error(junk: object) -> None:
    _try(json.dumps(junk).encode())


@given(
    st.binary(max_size=200) | st.text(alphabet="ab:-[]{}&*!|>'\"%@#?,\\ \n\t$~<", max_size=80).map(str.encode)
)
@settings(deadline=None)
def test_junk_of_any_bytes_is_a_configuration_or_an_error(junk: bytes) -> None:
    _try(junk)


def _try(content: bytes) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        loaded(content, environ={"A": "{x: 1}"})
    except ConfigurationError as error:
        problems = error.problems or (Problem("\n"),)
    assert not any("\n" in str(problem) for problem in problems)
