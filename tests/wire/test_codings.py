"""Content codings removed: whole, in pieces, in several parts, broken, and never much at once."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable
from itertools import pairwise

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.wire import codings
from sse_keepalive_proxy.wire.codings import STEP, Decoder, can_decode, decoder_of, missing

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EVENTS = [b"data: %d\n\n" % number * 40 for number in range(20)]
BODY = b"".join(EVENTS)


def raw_deflate(data: bytes) -> bytes:
    """deflate without the header of zlib, as some servers send it."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def large_window(data: bytes) -> bytes:
    """zstd with a window of 128 MiB."""
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=options)
    return packer.compress(data) + packer.flush()


ENCODERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "deflate": (b"deflate", zlib.compress),
    "raw deflate": (b"deflate", raw_deflate),
    "br": (b"br", brotli.compress),
    "zstd": (b"zstd", zstd.compress),
}


def decoded(decoder: Decoder, *pieces: bytes) -> bytes:
    """What `pieces` decode to, in steps."""
    found = []
    for piece in pieces:
        found.append(decoder.decode(piece))
        while decoder.more:
            found.append(decoder.decode(b""))
            assert len(found[-1]) <= 2 * STEP
    return b"".join(found)


@pytest.mark.parametrize("name", ENCODERS)
@given(cuts=st.lists(st.integers(0, 3000), max_size=6))
def test_it_does_not_matter_where_the_coded_bytes_are_cut(name: str, cuts: list[int]) -> None:
    coding, encode = ENCODERS[name]
    coded = encode(BODY)
    at = [0, *sorted(cut % len(coded) for cut in cuts), len(coded)]
    pieces = [coded[start:end] for start, end in pairwise(at)]
    assert decoded(decoder_of((coding,)), *pieces) == BODY
    assert decoded(decoder_of((coding,)), *[coded[at : at + 1] for at in range(len(coded))]) == BODY


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_several_members_follow_each_other_and_empty_ones_are_nothing(name: str) -> None:
    coding, encode = ENCODERS[name]
    coded = b"".join(encode(event) for event in [*EVENTS, b"", b""])
    assert decoded(decoder_of((coding,)), coded) == BODY
    assert decoded(decoder_of((coding,)), *[coded[at : at + 7] for at in range(0, len(coded), 7)]) == BODY


@pytest.mark.parametrize("name", ["gzip", "deflate", "raw deflate", "br"])
def test_what_follows_the_coding_is_ignored(name: str) -> None:
    coding, encode = ENCODERS[name]
    for rest in ([b"\x00" * 8], [b"\n"], [b"", b"more", b"more"]):
        assert decoded(decoder_of((coding,)), encode(BODY), *rest) == BODY


def flushed(name: str, events: list[bytes]) -> list[bytes]:
    """Each of `events` with a flush behind it, without an end."""
    if name == "br":
        brotli_packer = brotli.Compressor()
        return [brotli_packer.process(event) + brotli_packer.flush() for event in events]
    if name == "zstd":
        zstd_packer = zstd.ZstdCompressor()
        return [zstd_packer.compress(event, zstd_packer.FLUSH_BLOCK) for event in events]
    packer = zlib.compressobj(wbits={"gzip": 31, "deflate": 15, "raw deflate": -15}[name])
    return [packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) for event in events]


@pytest.mark.parametrize("name", ENCODERS)
def test_an_event_is_there_with_the_flush_behind_it(name: str) -> None:
    decoder = decoder_of((ENCODERS[name][0],))
    for coded, event in zip(flushed(name, EVENTS), EVENTS, strict=True):
        assert decoded(decoder, coded) == event


@pytest.mark.parametrize("name", ENCODERS)
def test_every_byte_of_a_large_event_is_there_at_its_flush_and_of_a_large_body_at_its_end(name: str) -> None:
    coding, encode = ENCODERS[name]
    event = b"data: " + b"".join(b"%05d " % number for number in range(65_000)) + b"\n\n"
    for coded in (flushed(name, [event])[0], encode(event)):
        assert decoded(decoder_of((coding,)), coded) == event


@pytest.mark.parametrize("name", ENCODERS)
def test_a_bomb_is_decoded_in_small_steps(name: str) -> None:
    coding, encode = ENCODERS[name]
    decoder = decoder_of((coding,))
    coded = encode(bytes(50 << 20))
    assert len(coded) < 60_000
    assert len(decoder.decode(coded)) <= 2 * STEP
    assert decoder.more
    assert len(decoder.decode(b"")) <= 2 * STEP


@pytest.mark.parametrize("name", ENCODERS)
def test_a_broken_coding_is_an_error(name: str) -> None:
    coding, encode = ENCODERS[name]
    decoder = decoder_of((coding,))
    coded = encode(bytes(range(256)) * 64)
    with pytest.raises(decoder.error):
        decoded(decoder, coded[:12], b"\xff\x00\xfe" * 2000)


def test_a_window_of_zstd_over_8_mib_is_an_error() -> None:
    decoder = decoder_of((b"zstd",))
    with pytest.raises(decoder.error):
        decoded(decoder, large_window(BODY))


def test_one_known_coding_can_be_decoded_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() == []
    for known in (b"gzip", b"deflate", b"br", b"zstd"):
        assert can_decode((known,))
    for unknown in ((), (b"compress",), (b"gzip", b"br"), (b"gzip", b"gzip")):
        assert not can_decode(unknown)
    monkeypatch.setattr(codings, "_LIBRARIES", {"br": "no_such_library", "zstd": "no_such_package.zstd"})
    assert missing() == ["br", "zstd"]
    assert [can_decode((coding,)) for coding in (b"gzip", b"br", b"zstd")] == [True, False, False]
