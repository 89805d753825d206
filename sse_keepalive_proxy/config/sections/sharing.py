"""The section `share` of a stream.

Owns its keys, their defaults and their documentation. `policy` of a section is the frozen value that the rest
of the proxy uses. Durations are in seconds, sizes in bytes. A concern that is off is None.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from sse_keepalive_proxy.config.types.fields import NULL_IS_DEFAULTS, OFF, Section
from sse_keepalive_proxy.config.types.shapes import CREDENTIAL, Count, ShareKey
from sse_keepalive_proxy.config.types.units import ShortDuration, Size
from sse_keepalive_proxy.stream import policy

__all__ = ["Replay", "Share"]

_ReplayIds = Annotated[policy.ReplayIds, Strict(False)]


class Replay(Section):
    """The log of a group: its last events, for a client that comes back."""

    events: Count = Field(
        default=256,
        description="The largest number of events in the log of a group. The oldest are dropped first.",
    )
    bytes: Size = Field(
        default=256 << 10,
        description="The largest size of the log of a group. A single event that is larger empties the log. "
        "`limits.max_replay` limits all logs together.",
    )
    ids: _ReplayIds = Field(
        default=policy.ReplayIds.UPSTREAM,
        description="The ids by which a client says where it was: those of upstream, or `add` for a server "
        "that sends none. With `add` each event without an id gets one of the proxy, which upstream never "
        "sees.",
    )

    @property
    def policy(self) -> policy.Replay:
        """The section as a frozen policy."""
        return policy.Replay(self.events, self.bytes, self.ids)


class Share(Section):
    """One upstream stream for several clients of the same user."""

    by: Annotated[ShareKey | None, OFF] = Field(
        default=None,
        description="The clients that share one upstream stream: `credential` those with byte-identical "
        "requests, `claim:PATH` those whose tokens have the same value there, as in `claim:user.id`. A claim "
        "needs `identity`; upstream must have accepted the token of each client. Use a claim for a server "
        "that has one place for each user.",
    )
    trust: ShortDuration = Field(
        default=30.0,
        description="How long a credential that upstream has accepted can join a group without asking "
        "upstream again. With `identity` it is never longer than the token is valid; without, the proxy does "
        "not read the token.",
    )
    max_clients: Count = Field(
        default=32,
        description="The largest number of clients in one group. A further client gets a stream of its own.",
    )
    linger: ShortDuration = Field(
        default=5.0,
        description="How long a group, with its upstream stream and its log, is kept after its last client "
        "has left. Make it as long as a client may be away and then miss nothing.",
    )
    replay: Annotated[Replay | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=None,
        description="The log of a group: its last events, for a client that comes back and names the last id "
        "that it has seen. With off a client that was away has missed the events of that time.",
    )

    @property
    def policy(self) -> policy.Share | None:
        """The section as a frozen policy, or None if `by` is off."""
        if self.by is None:
            return None
        return policy.Share(
            claim=None if self.by == CREDENTIAL else self.by.removeprefix("claim:"),
            trust=self.trust,
            max_clients=self.max_clients,
            linger=self.linger,
            replay=self.replay.policy if self.replay else None,
        )
