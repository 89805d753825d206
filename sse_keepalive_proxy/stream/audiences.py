"""Who belongs together, as the messages of NATS have shown (behaviour.md#audiences).

Some messages do not say whom they are for, only in which chat they are. The recipients of other messages are
remembered as the members of their chat. Names and members are texts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

__all__ = ["MOST_MEMBERS", "Audiences"]

MOST_MEMBERS = 200_000
"""Members of all audiences together, with one more for each audience."""


class Audiences:
    """The members of each audience. `most`: the limit for all members together. Above it, the audience that
    was learned the longest time ago is forgotten, and `forgot` is called.
    """

    __slots__ = ("_forgot", "_members", "_most", "_names", "_total")

    def __init__(self, most: int = MOST_MEMBERS, forgot: Callable[[], None] = lambda: None) -> None:
        self._most, self._forgot = most, forgot
        self._members: OrderedDict[str, frozenset[str]] = OrderedDict()  # the newest last
        self._names: dict[str, set[str]] = {}  # the audiences of each member
        self._total = 0

    def learn(self, name: str, members: frozenset[str]) -> None:
        """Remember `members` as those of the audience `name`, in the place of its former ones."""
        known = self._members
        if known.get(name) != members:
            if name in known:
                self._forget(name)
            known[name] = members
            self._total += len(members) + 1
            for member in members:
                self._names.setdefault(member, set()).add(name)
        known.move_to_end(name)
        while self._total > self._most:
            self._forget(next(iter(known)))
            self._forgot()

    def members(self, name: str) -> frozenset[str]:
        """Return the members of an audience, none if it is not known."""
        return self._members.get(name, frozenset())

    def peers(self, member: str) -> frozenset[str]:
        """Return all other members of the audiences of `member`."""
        found = (self._members[name] for name in self._names.get(member, ()))
        return frozenset().union(*found) - {member}

    def _forget(self, name: str) -> None:
        members = self._members.pop(name)
        self._total -= len(members) + 1
        for member in members:
            names = self._names[member]
            names.discard(name)
            if not names:
                del self._names[member]
