"""Who belongs together, as messages have shown: against a plain model, and its limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.stream.audiences import Audiences

NAMES = st.sampled_from("abc")
MEMBERS = st.frozensets(st.sampled_from("12345"), max_size=4)


def test_nobody_is_known_before_a_message() -> None:
    audiences = Audiences()
    assert audiences.members("a") == set()
    assert audiences.peers("1") == set()


def test_the_newest_list_of_members_counts() -> None:
    audiences = Audiences()
    audiences.learn("a", frozenset("123"))
    audiences.learn("a", frozenset("12"))
    assert audiences.members("a") == {"1", "2"}
    assert audiences.peers("3") == set()


@given(st.lists(st.tuples(NAMES, MEMBERS)))
def test_members_and_peers_are_those_of_the_newest_lists(learned: list[tuple[str, frozenset[str]]]) -> None:
    audiences = Audiences()
    for name, members in learned:
        audiences.learn(name, members)
    newest = dict(learned)
    for name in "abc":
        assert audiences.members(name) == newest.get(name, frozenset())
    for member in "12345":
        with_it = [members for members in newest.values() if member in members]
        assert audiences.peers(member) == frozenset().union(*with_it) - {member}


@given(st.lists(st.tuples(NAMES, MEMBERS)))
def test_above_the_limit_the_one_learned_longest_ago_is_forgotten(
    learned: list[tuple[str, frozenset[str]]],
) -> None:
    forgotten: list[int] = []
    audiences = Audiences(
        6, lambda: forgotten.append(1)
    )  # each audience counts for one more than its members
    kept: dict[str, frozenset[str]] = {}  # the newest last
    gone = 0
    for name, members in learned:
        audiences.learn(name, members)
        kept.pop(name, None)
        kept[name] = members
        while sum(len(each) + 1 for each in kept.values()) > 6:
            del kept[next(iter(kept))]
            gone += 1
    assert len(forgotten) == gone
    for name in "abc":
        assert audiences.members(name) == kept.get(name, frozenset())
