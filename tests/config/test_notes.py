"""What `check` says of settings that are right, and mean more than their names tell."""

from __future__ import annotations

from textwrap import indent

import pytest

from sse_keepalive_proxy.config import notes
from tests.config.writing import VALID, loaded, stream_problems


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


BRIDGE = """\
identity: {verify: upstream}
bridge:
  servers: nats://nats:4222
  subscriber: claim:sub
  subjects:
    - subject: chat
      when: text
      recipients: to
      keys: [id, none]
      upstream_keys: [id, id]
      frames: [{data: text}, {event: Named, data: "{id: id}"}, {data: none}]
      example: {id: 7, text: hi, to: [2, 3]}
"""


def said_of(stream: str) -> list[str]:
    """What is said of the first example message of a stream."""
    text = VALID + indent(stream, "      ")
    before = "note: routes[0].stream.bridge.subjects[0].example: "
    return [each.removeprefix(before) for each in notes(loaded(text).settings)]


def test_an_example_message_shows_what_would_be_sent() -> None:
    assert said_of(BRIDGE) == [
        "is for 2, 3",
        "keys[0] is 7",
        "keys[1] is null, which matches nothing",
        'sends data: "hi"',
        'sends event: Named / data: {"id":7}',
        "if upstream sends the same, it is recognised by upstream_keys[0]",
    ]


@pytest.mark.parametrize(
    ("change", "by"),
    [
        (("[id, none]\n", "[id, id]\n"), "upstream_keys[0], upstream_keys[1]"),
        (("upstream_keys: [id, id]", "upstream_keys: [message.id, to]"), "no upstream_keys"),
        (('data: "{id: id}"', 'data: "{id: text}"'), "no upstream_keys"),
    ],
)
def test_an_example_message_shows_which_keys_would_recognise_what_is_sent(
    change: tuple[str, str], by: str
) -> None:
    assert change[0] in BRIDGE
    assert said_of(BRIDGE.replace(*change))[-1] == f"if upstream sends the same, it is recognised by {by}"


def test_nothing_is_said_of_recognising_without_keys_or_events() -> None:
    no_keys = BRIDGE.replace("keys: [id, none]", "keys: []").replace("upstream_keys: [id, id]", "")
    no_events = BRIDGE.replace(
        '[{data: text}, {event: Named, data: "{id: id}"}, {data: none}]', "[{data: none}]"
    )
    for stream in (no_keys, no_events):
        assert not [each for each in said_of(stream) if "recognised" in each]


def test_an_example_message_that_does_not_count_is_ignored() -> None:
    said = said_of(BRIDGE.replace("text: hi", "other: hi"))
    assert said == ["is ignored, because `when` or `recipients` is null"]


def test_an_expression_that_cannot_be_evaluated_for_the_example_is_a_problem() -> None:
    (problem,) = stream_problems(BRIDGE.replace("recipients: to", "recipients: length(id)"))
    assert problem.startswith(
        ":15: routes[0].stream.bridge.subjects[0].recipients: cannot be evaluated for the example: "
    )
