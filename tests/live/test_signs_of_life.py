"""Which blocks are the last ones of a protocol."""

from __future__ import annotations

import pytest

from sse_keepalive_proxy.live.signs_of_life import Inspection
from sse_keepalive_proxy.stream.families import TREATMENTS
from sse_keepalive_proxy.stream.policy import Family, StreamPolicy

DELTA = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'


def finish(family: Family, blocks: bytes) -> bool:
    return Inspection(StreamPolicy(), TREATMENTS[family].last_events).finish(blocks)


@pytest.mark.parametrize(
    ("family", "block"),
    [
        (Family.OPENAI, b"data: [DONE]\n\n"),
        (Family.OPENAI, b"data:[DONE]\r\n\r\n"),
        (Family.OPENAI, b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n'),
        (Family.OPENAI, b'data: {"type": "response.completed", "response": {}}\n\n'),
        (Family.OPENAI, b"event: response.failed\ndata: {}\n\n"),
        (Family.OPENAI, b"event: response.incomplete\ndata: {}\n\n"),
        (Family.ANTHROPIC, b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
        (Family.ANTHROPIC, b'data: {"type":"message_stop"}\n\n'),
    ],
)
def test_the_last_event_of_a_protocol_is_known_in_every_shape(family: Family, block: bytes) -> None:
    assert finish(family, block)
    assert finish(family, DELTA + block)
    assert finish(family, block + b": a comment\n\n")
    assert not finish(family, block + DELTA)


@pytest.mark.parametrize(
    ("family", "block"),
    [
        (Family.OPENAI, DELTA),
        (Family.OPENAI, b'data: {"text":"[DONE]"}\n\n'),
        (Family.OPENAI, b": [DONE]\n\n"),
        (Family.OPENAI, b'data: {"type":"response.output_text.delta","delta":"response.completed"}\n\n'),
        (Family.OPENAI, b"data: [[DONE]\n\n"),
        (Family.ANTHROPIC, b'event: message_delta\ndata: {"delta":"message_stop"}\n\n'),
        (Family.ANTHROPIC, b"data: [DONE]\n\n"),
    ],
)
def test_an_event_that_only_mentions_it_is_not_the_last_one(family: Family, block: bytes) -> None:
    assert not finish(family, block)


@pytest.mark.parametrize("family", [family for family, gets in TREATMENTS.items() if not gets.last_events])
def test_families_without_a_last_event_are_not_looked_into(family: Family) -> None:
    inspection = Inspection(StreamPolicy(), TREATMENTS[family].last_events)
    assert not inspection.needed
    assert not inspection.finish(b"data: [DONE]\n\n")
