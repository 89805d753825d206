"""A body of upstream without its content coding (behaviour.md#content-codings).

One step of decoding is made in a turn of the loop, so other streams go on, whatever the body expands to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sse_keepalive_proxy.errors import ProxyError, UpstreamReset
from sse_keepalive_proxy.http.exchange import Body, Exchange, Sink
from sse_keepalive_proxy.wire.codings import Decoder

__all__ = ["DecodedBody"]

_LAST = 256 * 1024
"""Bytes: about the most that is decoded at once when another body takes the place of this one."""


class DecodedBody:
    """The body of `exchange` without its content coding: an exchange for its sink, and the exchange's sink.

    While decoded bytes are still to come, the exchange is paused, so at most a few reads of it wait here.
    """

    __slots__ = (
        "_coded", "_decoder", "_error", "_exchange", "_holds", "_is_over", "_loop", "_next", "_paused",
        "_sink",
    )  # fmt: skip

    def __init__(self, exchange: Body, decoder: Decoder) -> None:
        self._exchange, self._decoder = exchange, decoder
        self._loop = asyncio.get_running_loop()
        self._sink: Sink | None = None
        self._coded = b""  # received and not yet decoded
        self._next: asyncio.Handle | None = None  # the next step, in the next turn of the loop
        self._paused = self._is_over = False
        self._holds = False  # the exchange is paused
        self._error: ProxyError | None = None  # of the exchange, after everything that came before it

    # For the reader, like an exchange.

    @property
    def request_sent(self) -> bool:
        """Whether the whole request was sent."""
        return self._exchange.request_sent

    @request_sent.setter
    def request_sent(self, sent: bool) -> None:
        self._exchange.request_sent = sent

    @property
    def early(self) -> bytes:
        """Nothing: no byte is decoded before `attach`."""
        return b""

    def attach(self, sink: Sink, *, paused: bool = False) -> None:
        """Push the decoded body into `sink`. `paused`: not until `resume` is called."""
        self._sink, self._paused, self._holds = sink, paused, paused
        self._exchange.attach(self, paused=paused)

    def pause(self) -> None:
        """Stop pushing, and stop reading from upstream."""
        self._paused = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._hold()

    def resume(self) -> None:
        """Push again."""
        self._paused = False
        self._go_on()

    def close(self) -> None:
        """Close the exchange now. The sink gets no more calls."""
        self._sink = None
        self.pause()
        self._exchange.close()

    def part(self, let_go: Callable[[Exchange], None]) -> None:
        """Give the exchange to `let_go`. Another sink gets the bytes with their coding."""
        self._sink = None
        self.pause()
        self._exchange.part(let_go)

    def read_out(self) -> tuple[bytes, bool]:
        """Return the decoded bytes that have come and that the sink has not got, about 256 KiB at most, and
        whether the body is over. The sink does not get that end any more.
        """
        data, over = self._exchange.read_out()
        self._coded += data
        found, decoder = b"", self._decoder
        try:
            while (self._coded or decoder.more) and len(found) < _LAST:
                data = b""
                if not decoder.more:
                    data, self._coded = self._coded, b""
                found += decoder.decode(data)
        except decoder.error:
            self._exchange.close()
            return found, True
        return found, over or self._is_over

    # For the exchange, as its sink.

    def data(self, data: bytes) -> None:
        """Decode the next bytes, the first step at once."""
        self._coded += data
        if self._next is None and not self._paused:
            self._step()

    def end(self) -> None:
        """Receive the end. A coding that is not complete ends here, too, as in browsers."""
        self._is_over = True
        self._go_on()

    def failed(self, error: ProxyError) -> None:
        """Receive the error."""
        self._is_over, self._error = True, error
        self._go_on()

    # Inside.

    def _go_on(self) -> None:
        """Take the next step, when the sink can take it."""
        if self._sink is None or self._paused or self._next is not None:
            return
        if self._coded or self._decoder.more:
            self._hold()
            self._next = self._loop.call_soon(self._step)
        elif self._is_over:
            sink, self._sink = self._sink, None
            sink.end() if self._error is None else sink.failed(self._error)
        elif self._holds:
            self._holds = False
            self._exchange.resume()

    def _hold(self) -> None:
        self._holds = True
        self._exchange.pause()

    def _step(self) -> None:
        self._next = None
        data = b""
        if not self._decoder.more:
            data, self._coded = self._coded, b""
        try:
            found = self._decoder.decode(data)
        except self._decoder.error:
            sink, self._sink = self._sink, None
            self._exchange.close()
            if sink is not None:
                sink.failed(UpstreamReset("upstream's content coding is broken"))
            return
        if found and self._sink is not None:
            self._sink.data(found)
        self._go_on()
