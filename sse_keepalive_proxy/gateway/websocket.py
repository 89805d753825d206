"""After a 101: two connections spliced, byte for byte, in both directions.

Frames, close codes and extensions are the peers' own business; each side's end is passed on.
"""

from __future__ import annotations

from collections.abc import Callable

from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.net.interfaces import Protocol, Transport

__all__ = ["splice"]

_HIGH_WATER = 256 * 1024


class _End:
    """One side of a splice. What it receives goes to the other side's transport."""

    __slots__ = ("_done", "other", "transport")

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done
        self.transport: Transport | None = None
        self.other: Transport | None = None

    def connection_made(self, transport: Transport) -> None:
        """Of a transport that is taken over it was said to another."""

    def data_received(self, data: bytes) -> None:
        if self.other is not None and not self.other.is_closing():
            self.other.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.is_closing():
            self.other.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.is_closing():
            self.other.resume_reading()

    def eof_received(self) -> None:
        """A half-close is an end: the transport closes by itself."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        if self.other is not None:
            self.other.close()  # behind all that came: a reset may follow a close frame and its code
        self.transport = self.other = None
        self._done()


def splice(
    take_over: Callable[[Protocol], tuple[Transport, bytes]],
    exchange: Exchange,
    head: bytes,
    done: Callable[[], None],
) -> Callable[[], None]:
    """Answer the client with `head` (a whole 101) and join it with upstream's connection.

    `done` is called when the client's side is over. Returns a function that cuts both sides.
    Raises ConnectionError when the client has gone, `UpstreamError` when upstream has.
    """
    client_end, upstream_end = _End(done), _End(exchange.closed)
    upstream = exchange.splice(upstream_end)
    try:
        client, early = take_over(client_end)
    except ConnectionError:
        upstream.abort()
        raise
    for end, transport, other in ((client_end, client, upstream), (upstream_end, upstream, client)):
        end.transport, end.other = transport, other
        transport.set_write_buffer_limits(high=_HIGH_WATER)
    client.write(head + exchange.surplus)
    if early:
        upstream.write(early)
    upstream.resume_reading()

    def cut() -> None:
        for transport in (client, upstream):
            transport.abort()

    return cut
