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
