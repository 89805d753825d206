"""What `check` says of settings that are right, and mean more than their names tell."""

from __future__ import annotations

import pytest

from sse_keepalive_proxy.config import notes
from tests.config.writing import VALID, loaded


@pytest.mark.parametrize(
    ("early", "told"),
    [
        ("{after: 2s, methods: [GET, POST]}", True),
        ("{after: 2s, methods: [PUT]}", True),
        ("{after: 2s}", False),
        ("{after: 2s, methods: [GET, HEAD]}", False),
        ("{methods: [GET, POST]}", False),
    ],
)
def test_an_early_commit_for_a_post_is_explained_and_no_mistake(early: str, told: bool) -> None:
    configuration = loaded(f"{VALID}      early_commit: {early}\n    cors: off\n")
    assert configuration.warnings == ()
    found = list(notes(configuration.settings))
    assert len(found) == told
    for note in found:
        assert note.startswith("note: routes[0].stream.early_commit.methods: ")
        assert '"stream": true' in note


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("share: {by: credential, replay: }", "5s"),
        ("share: {by: credential, linger: 14s, replay: }", "14s"),
        ("share: {by: credential, linger: 15s, replay: }", None),
        ("share: {by: credential, replay: }\nleave: {hold: 1m}", None),
        ("share: {by: credential}", None),
        ("share: {by: off, replay: }", None),
        ("", None),
    ],
)
def test_a_log_that_is_gone_before_its_client_is_back_is_told(lines: str, told: str | None) -> None:
    stream = "".join(f"      {line}\n" for line in lines.splitlines())
    configuration = loaded(VALID + stream)
    assert configuration.warnings == ()
    found = list(notes(configuration.settings))
    if told is None:
        assert found == []
    else:
        (note,) = found
        assert note.startswith("note: routes[0].stream.share.linger: ")
        assert f"are gone {told} after the last client has left" in note
