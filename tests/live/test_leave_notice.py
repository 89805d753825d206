"""The text of what is published when clients have gone."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from sse_keepalive_proxy.live.leave_notice import LeaveNotice
from sse_keepalive_proxy.stream.policy import LeavePublish
from tests.support.looping import in_loop

VALUES = {"stream_id": "00c0ffee", "route": "events"}


class Publisher:
    """It keeps what it publishes."""

    can_publish = True

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []

    def serves(self, subscriber: str) -> bool:
        return subscriber == "8"

    def publish(self, subject: str, payload: bytes) -> asyncio.Task[str | None]:
        async def done() -> None:
            self.published.append((subject, payload))

        return asyncio.get_running_loop().create_task(done())


async def said(data: dict[str, Any], claims: dict[str, Any]) -> Any:
    """What is published, or None."""
    publisher = Publisher()
    notice = LeaveNotice.of(publisher, "7", LeavePublish("gone", data), VALUES, claims)
    if notice is None:
        return None
    assert await notice.publish() is None
    ((subject, payload),) = publisher.published
    assert subject == "gone"
    return json.loads(payload)


@in_loop
async def test_it_has_claims_with_their_type_and_the_time_when_it_is_published() -> None:
    data = {"user": "{claim.user}", "at": "{now}", "{now}": ["{claim.name}", "{route} {stream_id} {now}"]}
    found = await said(data, {"user": 7, "name": '{now} "x"'})
    at = found.pop("at")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", at)
    assert found == {"user": 7, at: ['{now} "x"', f"events 00c0ffee {at}"]}


@in_loop
async def test_there_is_none_without_its_claims() -> None:
    assert await said({"user": "{claim.user.id}"}, {"user": {"id": 7}}) == {"user": 7}
    assert await said({"user": "{claim.user.id}"}, {"user": {"id": None}}) is None
    assert await said({"user": "{claim.user.id}"}, {}) is None


@in_loop
async def test_it_is_untrue_while_its_subscriber_has_a_stream() -> None:
    policy = LeavePublish("gone", {})
    assert LeaveNotice(Publisher(), "8", policy.subject, ("{}",)).is_untrue
    assert not LeaveNotice(Publisher(), "7", policy.subject, ("{}",)).is_untrue
