"""How a connection is closed: what is cut must not look whole."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from sse_keepalive_proxy.net.tcp import drop
from tests.net.wires import gone, read_all, wired
from tests.support.running import on_each_loop


@pytest.mark.parametrize(
    ("whole", "waiting", "resets"),
    [(True, 0, False), (True, 64 << 20, True), (False, 0, True)],
    ids=["all of it has left", "bytes of a whole message wait", "inside a message"],
)
@on_each_loop
async def test_a_dropped_connection_is_reset_where_its_end_would_look_like_the_end_of_a_message(
    whole: bool, waiting: int, resets: bool
) -> None:
    with wired(True) as (transport, heard, peer):
        transport.write(b"said" + b"x" * waiting)
        drop(cast(asyncio.Transport, transport), whole=whole)
        await gone(heard)
        if resets:
            with pytest.raises(ConnectionResetError):
                await read_all(peer)
        else:
            assert await read_all(peer) == b"said"
