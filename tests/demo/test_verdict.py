"""The verdict: what makes a stream dead directly, and what makes it alive through the proxy."""

from dataclasses import replace

import pytest

from sse_keepalive_proxy.demo.observer import Life
from sse_keepalive_proxy.demo.verdict import SCENES, Scenes, judge, table
from tests.demo.seeing import HEALED, SILENT, STORY, TAB


def direct(scenes: Scenes, scene: str, **values: object) -> Scenes:
    """The same story with other figures of the direct stream in one scene."""
    seen = getattr(scenes, scene)
    return replace(scenes, **{scene: replace(seen, direct=replace(seen.direct, **values))})


def proxied(scenes: Scenes, scene: str, **values: object) -> Scenes:
    """The same with the proxied stream."""
    seen = getattr(scenes, scene)
    return replace(scenes, **{scene: replace(seen, proxied=replace(seen.proxied, **values))})


def tabs(scenes: Scenes, **values: object) -> Scenes:
    """The same with other values of the two tabs."""
    return replace(scenes, tabs=replace(scenes.tabs, **values))


def senders(scenes: Scenes, **values: object) -> Scenes:
    """The same with other values of those who send."""
    assert scenes.senders is not None
    return replace(scenes, senders=replace(scenes.senders, **values))


def test_a_healed_story_has_no_objections() -> None:
    assert [(found.direct, found.proxied) for found in judge(STORY)] == [((), ())] * 6


def test_a_story_without_a_nats_server_has_one_scene_less() -> None:
    bare = replace(STORY, senders=None)
    assert judge(bare) == judge(STORY)[:5]
    assert table(bare) == table(STORY)[:6]


@pytest.mark.parametrize(
    ("scenes", "scene", "word"),
    [
        (proxied(STORY, "silence", first_byte_after=None), 0, "the first byte was late"),
        (proxied(STORY, "silence", first_byte_after=4.0), 0, "the first byte was late"),
        (proxied(STORY, "silence", confirm_after=None), 0, "no confirm"),
        (proxied(STORY, "silence", pings=0), 0, "no ping"),
        (proxied(STORY, "silence", longest_silence=3.1), 0, "silent for 3.1 s"),
        (proxied(STORY, "silence", end="closed"), 0, "it ended: closed"),
        (replace(STORY, stalled=False), 0, "the metrics did not show"),
        (proxied(STORY, "event", messages=1), 1, "second message did not reach"),
        (proxied(STORY, "event", gaps=1), 1, "no notice of the gap"),
        (proxied(STORY, "event", longest_silence=3.1), 1, "silent for 3.1 s"),
        (proxied(STORY, "event", end="closed"), 1, "it ended: closed"),
        (replace(STORY, counted=False), 1, "the metrics did not count"),
        (proxied(STORY, "restart", messages=2), 2, "after the restart did not reach"),
        (proxied(STORY, "restart", gaps=3), 2, "no notice of the gap"),
        (proxied(STORY, "restart", longest_silence=3.1), 2, "silent for 3.1 s"),
        (proxied(STORY, "restart", end="broken"), 2, "it ended: broken"),
        (tabs(STORY, proxied=(HEALED, TAB)), 3, "the first tab received 0 of 2"),
        (tabs(STORY, proxied=(TAB, replace(TAB, messages=3))), 3, "the second tab received 3 of 2"),
        (tabs(STORY, proxied=(TAB, replace(TAB, end="closed"))), 3, "the second tab: it ended: closed"),
        (proxied(STORY, "offline", messages=1), 4, "received 1 messages, not 3"),
        (proxied(STORY, "offline", messages=5), 4, "received 5 messages, not 3"),
        (proxied(STORY, "offline", end="closed"), 4, "it ended: closed"),
        (senders(STORY, proxied=99), 5, "99 of 100 senders got their message back"),
        (senders(STORY, filled=199.0), 5, "the metrics did not show it"),
        (senders(STORY, dropped=101.0), 5, "the metrics did not show it"),
    ],
)
def test_each_thing_that_is_not_healed_is_named_alone_in_its_scene(
    scenes: Scenes, scene: int, word: str
) -> None:
    found = judge(scenes)
    (line,) = found[scene].proxied
    assert word in line
    assert [len(other.proxied) for other in found].count(0) == 5
    assert all(other.direct == () for other in found)


@pytest.mark.parametrize(
    ("scenes", "scene", "word"),
    [
        (direct(STORY, "silence", bytes=8), 0, "not silent (8 bytes)"),
        (direct(STORY, "event", messages=1), 1, "received the message"),
        (direct(STORY, "event", end=None), 1, "did not end it"),
        (direct(STORY, "restart", end=None), 2, "did not break it"),
        (tabs(STORY, evicted=0), 3, "did not take the other one's place"),
        (direct(STORY, "offline", events=2), 4, "received what it had missed"),
        (senders(STORY, direct=1), 5, "1 senders got their message back"),
    ],
)
def test_a_direct_stream_that_is_not_dead_is_nothing_to_heal(scenes: Scenes, scene: int, word: str) -> None:
    found = judge(scenes)
    (line,) = found[scene].direct
    assert word in line
    assert [len(other.direct) for other in found].count(0) == 5
    assert all(other.proxied == () for other in found)


def test_a_first_message_that_is_lost_takes_the_second_with_it() -> None:
    found = judge(proxied(STORY, "event", messages=0))[1].proxied
    assert [line for line in found if line == "the message did not reach onmessage"]
    assert [line for line in found if line == "the second message did not reach onmessage"]


def test_the_table_says_dead_and_alive_and_by_what_one_sees_it() -> None:
    assert table(STORY) == [
        "                    direct                           through the proxy",
        "  silence           dead: no bytes in 9.0 s          alive: byte after 4 ms, 4 pings",
        "  first event       dead: not received, then closed  alive: gap of 87 ms, 2 received",
        "  upstream restart  dead: broken off                 alive: gap of 2.6 s, 1 received",
        "  two tabs          dead: 4 of 4 ended the other     alive: 2 and 2 of 2 received",
        "  offline           dead: 0 of 2 missed received     alive: 3 of 3 received",
        "  incident          dead: 0 of 100 confirmed         alive: 100 of 100 confirmed",
    ]


def test_the_table_says_what_is_neither_dead_nor_alive() -> None:
    scenes = direct(proxied(STORY, "silence", first_byte_after=None), "silence", bytes=8)
    scenes = direct(scenes, "event", messages=1, end=None)
    scenes = direct(proxied(scenes, "restart", gaps=3, messages=2), "restart", end=None)
    scenes = tabs(scenes, evicted=1, proxied=(TAB, HEALED))
    scenes = senders(
        direct(proxied(scenes, "offline", messages=1), "offline", events=2), direct=7, proxied=93
    )
    assert table(scenes)[1:] == [
        "  silence           not dead: 8 bytes in 9.0 s       not alive: no byte, 4 pings",
        "  first event       not dead: received, still open   alive: gap of 87 ms, 2 received",
        "  upstream restart  not dead: still open             not alive: no notice, 0 received",
        "  two tabs          not dead: 1 of 4 ended the other not alive: 2 and 0 of 2 received",
        "  offline           not dead: 2 of 2 missed received not alive: 1 of 3 received",
        "  incident          not dead: 7 of 100 confirmed     not alive: 93 of 100 confirmed",
    ]


def test_the_scenes_are_six_and_differ() -> None:
    assert len(set(SCENES)) == len(judge(STORY)) == 6
    assert (SILENT.life, HEALED.life) == (Life.SILENT, Life.ALIVE)
