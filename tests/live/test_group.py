"""Which credential a group asks upstream with, whom a refusal concerns, and who gets the only place of a user
(behaviour.md#sharing).
"""

from __future__ import annotations

from sse_keepalive_proxy.stream.messages import CloseReason
from tests.live.group_stage import GroupStage


def test_upstream_is_asked_again_with_the_newest_accepted_credential() -> None:
    stage = GroupStage()
    a, b = stage.join("a"), stage.join("b")
    stage.lose()
    assert stage.attempts.bare == b"b"
    stage.reopen()
    stage.upstream.send(b"data: 1\n\n")
    assert (a.data, b.data) == (["1"], ["1"])
    stage.join("a")  # upstream has accepted it again
    stage.lose()
    assert stage.attempts.bare == b"a"


def test_the_credential_of_a_client_that_has_left_is_not_used_while_others_are_there() -> None:
    stage = GroupStage()
    stage.join("a")
    b = stage.join("b")
    stage.leave(b)
    stage.lose()
    assert stage.attempts.bare == b"a"


def test_a_refusal_concerns_the_clients_of_the_credential_that_upstream_was_asked_with() -> None:
    stage = GroupStage()
    a, b, also_b = stage.join("a"), stage.join("b"), stage.join("b")
    stage.lose()
    stage.refuse()
    assert (a.ended, b.ended, also_b.ended) == (None, CloseReason.UNAUTHORIZED, CloseReason.UNAUTHORIZED)
    stage.next_attempt()
    assert stage.attempts.bare == b"a"
    stage.reopen()
    stage.upstream.send(b"data: 1\n\n")
    assert a.data == ["1"]


def test_a_refusal_ends_no_other_client_when_the_one_that_was_asked_for_has_left_meanwhile() -> None:
    stage = GroupStage()
    a, b = stage.join("a"), stage.join("b")
    stage.lose()
    assert stage.attempts.bare == b"b"
    stage.leave(b)
    stage.refuse()
    assert (a.ended, b.ended) == (None, CloseReason.CLIENT_GONE)
    assert (a.credential.refused, b.credential.refused) == (False, True)
    stage.next_attempt()
    assert stage.attempts.bare == b"a"
    stage.reopen()
    stage.upstream.send(b"data: 1\n\n")
    assert a.data == ["1"]


def test_the_last_refusal_ends_the_group() -> None:
    stage = GroupStage()
    a, b = stage.join("a"), stage.join("b")
    stage.lose()
    stage.refuse()
    stage.next_attempt()
    stage.refuse()
    assert (a.ended, b.ended) == (CloseReason.UNAUTHORIZED, CloseReason.UNAUTHORIZED)
    assert stage.groups.find(b"user") is None
    assert len(stage.streams.groups) == 0


def test_a_client_that_comes_during_an_attempt_brings_upstream_with_it() -> None:
    stage = GroupStage()
    a = stage.join("a")
    stage.lose()
    b = stage.join("b")
    assert not stage.attempts.under_way
    stage.upstream.send(b"data: 1\n\n")
    assert (a.data, b.data) == (["1"], ["1"])


def test_a_refused_credential_that_upstream_accepts_later_is_used_again() -> None:
    stage = GroupStage()
    a = stage.join("a")
    stage.join("b")
    stage.lose()
    stage.refuse()
    stage.next_attempt()
    again = stage.join("b")
    assert not stage.attempts.under_way
    again.credential.accepted(b"", (), b"", stage.clock())
    stage.lose()
    assert stage.attempts.bare == b"b"
    assert a.ended is None


def test_an_upstream_that_ends_its_stream_for_a_client_that_asks_is_no_loss() -> None:
    stage = GroupStage(reconnects=False)
    a = stage.join("a")
    answered = stage.group.ask()
    stage.upstream.end()
    assert a.ended is None
    b = stage.join("a")
    answered()
    stage.upstream.send(b"data: 1\n\n")
    assert (a.data, b.data) == (["1"], ["1"])
    stage.upstream.end()
    assert (a.ended, b.ended) == (CloseReason.UPSTREAM_END, CloseReason.UPSTREAM_END)


def test_an_upstream_that_ends_its_stream_for_a_client_that_it_refuses_has_ended_it_for_all() -> None:
    stage = GroupStage(reconnects=False)
    a = stage.join("a")
    refused, also_refused = stage.group.ask(), stage.group.ask()
    stage.upstream.end()
    refused()
    assert a.ended is None
    also_refused()
    assert a.ended is CloseReason.UPSTREAM_END
    assert stage.groups.find(b"user") is None
