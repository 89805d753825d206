"""The groups of a route: what a request finds there, and what is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from sse_keepalive_proxy.gateway.sharing import Groups
from sse_keepalive_proxy.stream.policy import Share
from tests.live.group_stage import GroupStage
from tests.support.looping import in_loop, soon


def test_a_group_is_found_by_its_key_until_it_is_removed() -> None:
    stage = GroupStage()
    groups, group = stage.groups, stage.group
    assert groups.find(b"user") is group
    assert groups.find(b"other") is None
    groups.remove(group)
    groups.remove(group)
    assert groups.find(b"user") is None
    assert len(groups) == 0


def test_a_group_that_is_removed_late_leaves_its_successor() -> None:
    stage = GroupStage()
    old, new = stage.group, stage.new_group(b"user")
    credential = stage.credential("a")
    stage.groups.accept(old, credential)
    stage.groups.accept(new, credential)
    stage.groups.remove(old)
    assert stage.groups.find(b"user") is new
    assert stage.groups.accepted(b"a") == (new, credential)


def test_an_accepted_request_is_known_until_its_group_is_removed() -> None:
    stage = GroupStage()
    a, b = stage.credential("a"), stage.credential("b")
    for credential in (a, b, a):
        stage.groups.accept(stage.group, credential)
    assert stage.groups.accepted(b"a") == (stage.group, a)
    assert list(stage.group.credentials) == [b, a]  # the newest is last
    stage.groups.remove(stage.group)
    assert stage.groups.accepted(b"a") is None
    assert stage.groups.accepted(b"b") is None


def test_a_credential_that_no_client_uses_is_forgotten_after_the_time_of_trust() -> None:
    stage = GroupStage()
    used, unused = stage.join("used").credential, stage.credential("unused")
    stage.groups.accept(stage.group, unused)
    stage.clock.advance(stage.share.trust)
    stage.groups.accept(stage.group, stage.credential("b"))
    assert stage.groups.accepted(b"unused") is not None
    stage.clock.advance(1.0)
    stage.groups.accept(stage.group, stage.credential("c"))
    assert stage.groups.accepted(b"unused") is None
    assert stage.groups.accepted(b"used") == (stage.group, used)
    assert [known.fingerprint for known in stage.group.credentials] == [b"used", b"b", b"c"]


class Openings:
    """Requests with one fingerprint. `began` has the numbers of those that are being opened, or were."""

    def __init__(self, count: int) -> None:
        self.groups = Groups(Share(), b"key")
        self.began: list[int] = []
        self.over = [asyncio.Event() for _ in range(count)]
        self.tasks = [asyncio.create_task(self.open(number)) for number in range(count)]

    async def open(self, number: int) -> None:
        async with self.groups.opening(b"same"):
            self.began.append(number)
            await self.over[number].wait()
            if number == 0:
                raise ZeroDivisionError

    async def end(self, *numbers: int) -> None:
        for number in numbers:
            self.over[number].set()
        await asyncio.wait([self.tasks[number] for number in numbers])
        assert self.groups._openings == {}


@in_loop
async def test_requests_of_one_fingerprint_wait_until_the_first_is_answered_and_then_go_on_together() -> None:
    openings = Openings(4)
    await soon(lambda: openings.began)
    assert openings.began == [0]
    openings.over[0].set()
    with pytest.raises(ZeroDivisionError):  # its fault concerns no other
        await openings.tasks[0]
    await soon(lambda: sorted(openings.began) == [0, 1, 2, 3])
    await openings.end(1, 2, 3)


@in_loop
async def test_a_request_that_is_given_up_releases_those_that_wait_for_it() -> None:
    openings = Openings(3)
    await soon(lambda: openings.began)
    openings.tasks[1].cancel()  # it waits, and ends nothing
    await asyncio.wait([openings.tasks[1]])
    assert openings.began == [0]
    assert len(openings.groups._openings) == 1
    openings.tasks[0].cancel()
    await soon(lambda: openings.began == [0, 2])
    await openings.end(2)


@in_loop
async def test_requests_with_different_fingerprints_do_not_wait_for_each_other() -> None:
    groups = Groups(Share(), b"key")
    async with groups.opening(b"a"), groups.opening(b"b"):
        assert len(groups._openings) == 2
    assert groups._openings == {}
