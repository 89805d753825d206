"""A transport and the protocol over it, by their shape: asyncio's words, as many of them as there is use for.

By shape and without a base class of asyncio's, since what inherits from interpreted classes stays interpreted
where this package is compiled (docs/design/decisions/0013).
"""

from __future__ import annotations

import typing

__all__ = ["Protocol", "Transport"]


class Protocol(typing.Protocol):
    """What a transport tells, as `asyncio.Protocol` documents it."""

    def connection_made(self, transport: Transport, /) -> None:
        """Once, first."""

    def data_received(self, data: bytes, /) -> None:
        """What one read brought, never nothing."""

    def eof_received(self) -> bool | None:
        """The peer sends no more; true keeps the connection open."""

    def pause_writing(self) -> None:
        """More waits in the transport than its limit."""

    def resume_writing(self) -> None:
        """Nothing does any more."""

    def connection_lost(self, exc: Exception | None, /) -> None:
        """Once, last."""


class Transport(typing.Protocol):
    """A connection, as `asyncio.Transport` documents it."""

    def write(self, data: bytes, /) -> None:
        """Send `data` behind what waits."""

    def can_write_eof(self) -> bool:
        """Whether `write_eof` can be called."""

    def write_eof(self) -> None:
        """Tell the peer, behind what waits, that nothing more comes."""

    def close(self) -> None:
        """Close behind what waits."""

    def abort(self) -> None:
        """Close now."""

    def is_closing(self) -> bool:
        """Whether it is closed, or is about to be."""

    def pause_reading(self) -> None:
        """Read nothing."""

    def resume_reading(self) -> None:
        """Read again."""

    def is_reading(self) -> bool:
        """Whether it reads."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """How much may wait before the protocol is told."""

    def get_write_buffer_size(self) -> int:
        """Bytes that wait."""

    def set_protocol(self, protocol: Protocol, /) -> None:
        """Another protocol hears of everything from now on."""

    def get_extra_info(self, name: str, default: typing.Any = None) -> typing.Any:
        """`socket`, `peername`, `sslcontext`."""
