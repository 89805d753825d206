"""Decode content codings in steps: gzip and deflate with zlib, br and zstd with the extra `decode`.

A decoder returns about `STEP` bytes at most from one call, however much its input expands.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Protocol

__all__ = ["STEP", "Decoder", "can_decode", "decoder_of", "missing"]

STEP: Final = 64 * 1024

_GZIP_MEMBER: Final = b"\x1f\x8b"
_LARGEST_ZSTD_WINDOW: Final = 23
"""8 MiB as a power of two: the largest window of the coding (RFC 9659)."""

_ZSTD: Final = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
_LIBRARIES: Final = {"br": "brotli", "zstd": _ZSTD}


class Decoder(Protocol):
    """The decoder of one body."""

    more: bool
    """Whether there is more output. The next call must then be one with `b""`."""

    error: type[Exception]
    """What `decode` raises if the coding is broken."""

    def decode(self, data: bytes) -> bytes:
        """Return what `data` decodes to, about `STEP` bytes at most. Raises `error`."""


class _Zlib:
    """gzip, also in several members, and deflate, with or without zlib's header. What follows is ignored."""

    error: type[Exception] = zlib.error

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._object = zlib.decompressobj(31) if gzip else None
        self._rest = b""
        self.more = False

    def decode(self, data: bytes) -> bytes:
        data = self._rest + data
        if self._object is None:
            if len(data) < 2:
                self._rest = data
                return b""
            self._object = zlib.decompressobj(15 if _has_zlib_header(data) else -15)
        elif self._object.eof:
            if not self._gzip or not data or not data.startswith(_GZIP_MEMBER[: len(data)]):
                self._rest, self.more = b"", False
                return b""
            self._object = zlib.decompressobj(31)
        found = self._object.decompress(data, STEP)
        self._rest = self._object.unconsumed_tail or self._object.unused_data
        self.more = bool(self._rest) or len(found) >= STEP
        return found


def _has_zlib_header(data: bytes) -> bool:
    return data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0


class _Brotli:
    def __init__(self) -> None:
        import brotli

        self._object: Any = brotli.Decompressor()
        self.more = False
        self.error: type[Exception] = brotli.error

    def decode(self, data: bytes) -> bytes:
        if self._object.is_finished():
            self.more = False
            return b""
        found: bytes = self._object.process(data, output_buffer_limit=STEP)
        # `can_accept_more_data` is also true while output waits, so only an empty answer says that none does.
        self.more = bool(found) or not self._object.can_accept_more_data()
        return found


class _Zstd:
    """zstd, also in several frames."""

    def __init__(self) -> None:
        zstd = import_module(_ZSTD)
        self.error: type[Exception] = zstd.ZstdError
        options = {zstd.DecompressionParameter.window_log_max: _LARGEST_ZSTD_WINDOW}
        self._new_frame: Callable[[], Any] = lambda: zstd.ZstdDecompressor(options=options)
        self._object = self._new_frame()
        self._rest = b""
        self.more = False

    def decode(self, data: bytes) -> bytes:
        data, self._rest = self._rest + data, b""
        if self._object.eof:
            if not data:
                return b""
            self._object = self._new_frame()
        found: bytes = self._object.decompress(data, STEP)
        self._rest = self._object.unused_data
        self.more = bool(self._rest) or not (self._object.eof or self._object.needs_input)
        return found


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # the package around it is not installed
        return False


def missing() -> list[str]:
    """Return the codings that cannot be decoded, because their library is not installed."""
    return [coding for coding, library in _LIBRARIES.items() if not _is_installed(library)]


def can_decode(codings: tuple[bytes, ...]) -> bool:
    """Return whether a body with `codings` can be decoded: there is one, and it is known and installed."""
    return codings in _DECODERS and _is_installed(_LIBRARIES.get(codings[0].decode(), "zlib"))


def decoder_of(codings: tuple[bytes, ...]) -> Decoder:
    """Return a decoder for a body with `codings`. Raises KeyError unless `can_decode`."""
    return _DECODERS[codings]()


_DECODERS: Final[dict[tuple[bytes, ...], Callable[[], Decoder]]] = {
    (b"gzip",): lambda: _Zlib(gzip=True),
    (b"deflate",): lambda: _Zlib(gzip=False),
    (b"br",): _Brotli,
    (b"zstd",): _Zstd,
}
