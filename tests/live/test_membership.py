"""A place in a group, which for its stream is the body of upstream's answer."""

from __future__ import annotations

from sse_keepalive_proxy.stream.states import State
from tests.live.group_stage import GroupStage


def test_a_client_gets_nothing_after_it_has_left() -> None:
    stage = GroupStage()
    a, b = stage.join("a"), stage.join("b")
    stage.upstream.send(b"data: 1\n\n")
    stage.leave(a)
    stage.upstream.send(b"data: 2\n\n")
    assert (a.data, b.data) == (["1"], ["1", "2"])


def test_a_place_may_be_left_twice() -> None:
    stage = GroupStage()
    a, _ = stage.join("a"), stage.join("b")
    [place, _] = list(stage.group._members)
    place.close()
    place.close()
    assert (stage.group.clients, a.credential.members) == (1, 0)


def test_a_slow_client_pauses_nobody() -> None:
    stage = GroupStage()
    stage.join("a")
    [place] = list(stage.group._members)
    place.pause()
    assert stage.upstream.speaks
    place.resume()


def test_a_stream_shows_the_state_of_the_upstream_of_its_group() -> None:
    stage = GroupStage()
    a = stage.join("a")
    stage.upstream.send(b"data: 1\n\n")
    assert (a.stream.state, a.stream.group) == (State.FLOWING, "user")
    stage.lose()
    assert a.stream.state is State.RECONNECTING
    stage.reopen()
    assert a.stream.state is not State.RECONNECTING


def test_a_credential_that_is_accepted_again_is_no_longer_refused() -> None:
    credential = GroupStage().credential("a")
    credential.refused = True
    credential.accepted(b"head", (b"origin",), b"selected", 7.0)
    assert not credential.refused
    assert (credential.head, credential.varies, credential.selected) == (b"head", (b"origin",), b"selected")
    assert credential.accepted_at == 7.0
