"""Fingerprints that are remembered for a while, and never too many of them."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sse_keepalive_proxy.gateway.expiring_set import ExpiringSet
from tests.support.clock import ManualClock

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def test_what_was_added_is_known_and_nothing_else() -> None:
    known = ExpiringSet(10, 60.0, ManualClock())
    assert A not in known
    known.add(A)
    assert A in known
    assert B not in known
    assert len(known) == 1


def test_what_was_discarded_is_forgotten_and_may_be_discarded_again() -> None:
    known = ExpiringSet(10, 60.0, ManualClock())
    known.add(A)
    known.discard(A)
    known.discard(A)
    assert A not in known


def test_it_is_forgotten_when_its_lifetime_is_over() -> None:
    clock = ManualClock()
    known = ExpiringSet(10, 60.0, clock)
    known.add(A)
    clock.advance(59.0)
    known.add(B)
    assert A in known
    clock.advance(1.0)
    assert A not in known
    assert B in known
    assert len(known) == 1
    clock.advance(59.0)
    assert len(known) == 0


def test_an_entry_that_is_added_again_is_renewed() -> None:
    clock = ManualClock()
    known = ExpiringSet(10, 60.0, clock)
    known.add(A)
    clock.advance(30.0)
    known.add(A)
    clock.advance(59.0)
    assert A in known
    assert len(known) == 1


def test_when_it_is_full_the_oldest_goes() -> None:
    known = ExpiringSet(2, 60.0, ManualClock())
    for fingerprint in (A, B, A, C):
        known.add(fingerprint)
    assert A in known
    assert B not in known
    assert C in known
    assert len(known) == 2


def test_what_has_expired_makes_room_before_anything_living_goes() -> None:
    clock = ManualClock()
    known = ExpiringSet(2, 60.0, clock)
    known.add(A)
    clock.advance(30.0)
    known.add(B)
    clock.advance(30.0)
    known.add(C)
    assert B in known
    assert C in known


def test_entries_expire_without_being_looked_up() -> None:
    clock = ManualClock()
    known = ExpiringSet(1000, 60.0, clock)
    for number in range(1000):
        known.add(number.to_bytes(16))
    clock.advance(60.0)
    known.add(A)
    assert len(known._expires_at) == 1


class Memory(RuleBasedStateMachine):
    """Against a plain list of what was added when, whatever is done in whatever order."""

    @initialize(limit=st.integers(1, 4))
    def begin(self, limit: int) -> None:
        self.clock = ManualClock()
        self.limit = limit
        self.known = ExpiringSet(limit, 10.0, self.clock)
        self.added: list[tuple[int, float]] = []

    @rule(number=st.integers(0, 6))
    def add(self, number: int) -> None:
        self.known.add(number.to_bytes(16))
        self.added = [*(item for item in self.living() if item[0] != number), (number, self.clock())]
        self.added = self.added[-self.limit :]

    @rule(number=st.integers(0, 6))
    def discard(self, number: int) -> None:
        self.known.discard(number.to_bytes(16))
        self.added = [item for item in self.added if item[0] != number]

    @rule(seconds=st.integers(0, 12))
    def wait(self, seconds: int) -> None:
        self.clock.advance(float(seconds))

    @invariant()
    def it_knows_what_the_list_knows(self) -> None:
        expected = {number for number, _ in self.living()}
        assert {number for number in range(7) if number.to_bytes(16) in self.known} == expected
        assert len(self.known) == len(expected) <= self.limit

    def living(self) -> list[tuple[int, float]]:
        return [item for item in self.added if self.clock() < item[1] + 10.0]


TestMemory = Memory.TestCase
TestMemory.settings = settings(deadline=None)
