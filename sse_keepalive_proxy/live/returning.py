"""What a client has missed that comes back to a group (behaviour.md#replay, behaviour.md#durable)."""

from __future__ import annotations

from sse_keepalive_proxy.live.membership import Membership
from sse_keepalive_proxy.live.relay import Relay
from sse_keepalive_proxy.stream.replay_log import GapReason, ReplayLog, position_in

__all__ = ["missed_by"]


def missed_by(membership: Membership, log: ReplayLog | None, flow: Relay) -> list[bytes] | GapReason:
    """Return the blocks after the client's last id, if it has one: from the group's log, or by the position
    in the id from the memory of the bridge. Return the reason if neither has them all. `flow`: the relay of
    the group.
    """
    if membership.gap is not None:
        return membership.gap
    if not membership.last_id:
        return []
    bridge, membership.bridge = membership.bridge, None
    position = position_in(membership.last_id)
    if log is None:
        return GapReason.UNKNOWN
    found = log.after(membership.last_id)
    if isinstance(found, list) or position is None or bridge is None or not log.adds:
        return found
    messages = bridge.after(position, flow)
    if isinstance(messages, GapReason):
        return messages
    blocks = []
    for each, then in messages:
        blocks.append(log.name(each.frames, position, then))
        position = then
    flow.id_seen = flow.id_seen or bool(blocks)
    return blocks
