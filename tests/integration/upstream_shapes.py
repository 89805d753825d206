"""Answers of upstream in strange HTTP, and what the proxy makes of them.

Each shape is the bytes of one answer, after which upstream closes. `WHOLE`: the client gets status 200 and
the whole event. `CUT`: it gets no end of the body. Other values are the words of a 502.
"""

from __future__ import annotations

__all__ = ["CUT", "EVENT", "REFUSED", "SHAPES", "WHOLE"]

EVENT = b"data: hello\n\n"  # 13 bytes, d in hexadecimal
WHOLE, CUT = "whole", "cut"

OK = b"HTTP/1.1 200 OK\r\n"
TYPE = b"Content-Type: text/event-stream\r\n"
CHUNKS = b"d\r\n%b\r\n0\r\n\r\n" % EVENT

_INVALID = "upstream's answer is not valid HTTP: "
NO_HTTP = f"{_INVALID}it does not begin with HTTP/"
NO_STATUS = f"{_INVALID}its first line is no status line"
TWO_LENGTHS = f"{_INVALID}it has two different lengths"
NOT_ASKED = f"{_INVALID}it uses a transfer coding that was not asked for"


def chunked(coded: bytes) -> bytes:
    """An answer whose body has the chunked coding `coded`."""
    return head(b"Transfer-Encoding: chunked\r\n") + coded


def head(fields: bytes) -> bytes:
    """A head with `fields`, whole lines."""
    return OK + TYPE + fields + b"\r\n"


def sized(fields: bytes, first_line: bytes = OK) -> bytes:
    """An answer with a length and with `fields`."""
    return first_line + TYPE + fields + b"Content-Length: 13\r\n\r\n" + EVENT


SHAPES: dict[str, tuple[bytes, str]] = {
    # Chunked coding.
    "chunked": (chunked(CHUNKS), WHOLE),
    "sizes padded with blanks": (chunked(b"d   \r\n%b\r\n0  \r\n\r\n" % EVENT), WHOLE),
    "sizes padded with tabs": (chunked(b"d\t\r\n%b\r\n0\t\r\n\r\n" % EVENT), WHOLE),
    "sizes padded with zeros": (chunked(b"0000000d\r\n%b\r\n0000\r\n\r\n" % EVENT), WHOLE),
    "a size with forty zeros": (chunked(b"0" * 40 + b"d\r\n%b\r\n0\r\n\r\n" % EVENT), WHOLE),
    "a size in capitals": (chunked(b"D\r\n%b\r\n0\r\n\r\n" % EVENT), WHOLE),
    "bare LF in the coding": (chunked(b"d\n%b\n0\n\n" % EVENT), WHOLE),
    "bare LF behind a size": (chunked(b"d\n%b\r\n0\r\n\r\n" % EVENT), WHOLE),
    "bare LF behind the data": (chunked(b"d\r\n%b\n0\r\n\r\n" % EVENT), WHOLE),
    "bare LF at the end": (chunked(b"d\r\n%b\r\n0\n\n" % EVENT), WHOLE),
    "extensions": (chunked(b'd;a=b;c="d;e"\r\n%b\r\n0;x\r\n\r\n' % EVENT), WHOLE),
    "extensions with blanks": (chunked(b"d ; a = b\r\n%b\r\n0\r\n\r\n" % EVENT), WHOLE),
    "extensions of any bytes": (chunked(b"d;a b(c)/\x80\r\n%b\r\n0\r\n\r\n" % EVENT), WHOLE),
    "empty extensions": (chunked(b"d;\r\n%b\r\n0;\r\n\r\n" % EVENT), WHOLE),
    "an extension without a semicolon": (chunked(b"d x\r\n%b\r\n0\r\n\r\n" % EVENT), WHOLE),
    "trailers": (chunked(b"d\r\n%b\r\n0\r\nX: y\r\nZ: 1\r\n\r\n" % EVENT), WHOLE),
    "trailers with bare LF": (chunked(b"d\r\n%b\r\n0\nX: y\n\n" % EVENT), WHOLE),
    "a trailer without a colon": (chunked(b"d\r\n%b\r\n0\r\nno colon here\r\n\r\n" % EVENT), WHOLE),
    "a blank before a size": (chunked(b" d\r\n%b\r\n0\r\n\r\n" % EVENT), CUT),
    "a size with 0x": (chunked(b"0xd\r\n%b\r\n0\r\n\r\n" % EVENT), CUT),
    "a negative size": (chunked(b"-d\r\n%b\r\n0\r\n\r\n" % EVENT), CUT),
    "a size of 2^68": (chunked(b"fffffffffffffffff\r\n" + EVENT), CUT),
    "no line end behind the data": (chunked(b"d\r\n%b0\r\n\r\n" % EVENT), CUT),
    "something else instead of a size": (chunked(b"d\r\n%b\r\nzz\r\n" % EVENT), CUT),
    "no last chunk": (chunked(b"d\r\n%b\r\n" % EVENT), CUT),
    "half a last chunk": (chunked(b"d\r\n%b\r\n0\r\n" % EVENT), CUT),
    # Transfer-Encoding and Content-Length.
    "chunked in capitals": (head(b"TRANSFER-ENCODING: Chunked\r\n") + CHUNKS, WHOLE),
    "chunked of HTTP/1.0": (
        b"HTTP/1.0 200 OK\r\n" + TYPE + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        WHOLE,
    ),
    "chunked twice": (head(b"Transfer-Encoding: chunked\r\n" * 2) + CHUNKS, WHOLE),
    "chunked twice in one field": (head(b"Transfer-Encoding: chunked, chunked\r\n") + CHUNKS, WHOLE),
    "chunked with a parameter": (head(b"Transfer-Encoding: chunked;q=1\r\n") + CHUNKS, WHOLE),
    "identity": (head(b"Transfer-Encoding: identity\r\n") + EVENT, WHOLE),
    "identity with a length": (sized(b"Transfer-Encoding: identity\r\n"), WHOLE),
    "identity, chunked": (head(b"Transfer-Encoding: identity, chunked\r\n") + CHUNKS, WHOLE),
    "identity and chunked": (
        head(b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n") + CHUNKS,
        WHOLE,
    ),
    "an empty coding": (head(b"Transfer-Encoding:\r\n") + EVENT, WHOLE),
    "a coding called none": (head(b"Transfer-Encoding: none\r\n") + EVENT, WHOLE),
    "gzip as a transfer coding": (head(b"Transfer-Encoding: gzip\r\n") + EVENT, NOT_ASKED),
    "gzip, chunked": (head(b"Transfer-Encoding: gzip, chunked\r\n") + CHUNKS, NOT_ASKED),
    "a length before chunked": (
        head(b"Content-Length: 20\r\nTransfer-Encoding: chunked\r\n") + CHUNKS,
        WHOLE,
    ),
    "a length behind chunked": (
        head(b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n") + CHUNKS,
        WHOLE,
    ),
    "a length": (sized(b""), WHOLE),
    "a length twice": (sized(b"Content-Length: 13\r\n"), WHOLE),
    "a length twice in one field": (head(b"Content-Length: 13, 13\r\n") + EVENT, WHOLE),
    "a length with a zero": (head(b"Content-Length: 013\r\n") + EVENT, WHOLE),
    "a length that is less": (head(b"Content-Length: 13\r\n") + EVENT + b"more", WHOLE),
    "a length that is more": (head(b"Content-Length: 50\r\n") + EVENT, CUT),
    "a length of -1": (head(b"Content-Length: -1\r\n") + EVENT, WHOLE),
    "a length of 2^64-1": (head(b"Content-Length: 18446744073709551615\r\n") + EVENT, WHOLE),
    "an empty length": (head(b"Content-Length:\r\n") + EVENT, WHOLE),
    "a length that is no number": (head(b"Content-Length: 13;x\r\n") + EVENT, WHOLE),
    "two lengths": (sized(b"Content-Length: 14\r\n"), TWO_LENGTHS),
    "two lengths in one field": (head(b"Content-Length: 13, 14\r\n") + EVENT, TWO_LENGTHS),
    "neither, until the close": (head(b"") + EVENT, WHOLE),
    "until the close of HTTP/1.0": (b"HTTP/1.0 200 OK\r\n" + TYPE + b"\r\n" + EVENT, WHOLE),
    "until the close with keep-alive": (head(b"Connection: keep-alive\r\n") + EVENT, WHOLE),
    # The status line.
    "bare LF in the head": (sized(b"A: b\r\n").replace(b"\r\n", b"\n"), WHOLE),
    "bare LF in some lines": (sized(b"A: b\r\n").replace(b"\r\nA", b"\nA"), WHOLE),
    "bare LF before the body": (sized(b"A: b\r\n").replace(b"\r\n\r\n", b"\r\n\n"), WHOLE),
    "no reason": (sized(b"", b"HTTP/1.1 200\r\n"), WHOLE),
    "no reason and a blank": (sized(b"", b"HTTP/1.1 200 \r\n"), WHOLE),
    "blanks before the status": (sized(b"", b"HTTP/1.1   200 OK\r\n"), WHOLE),
    "a tab before the status": (sized(b"", b"HTTP/1.1\t200 OK\r\n"), WHOLE),
    "blanks behind the status": (sized(b"", b"HTTP/1.1 200    OK\r\n"), WHOLE),
    "a tab behind the status": (sized(b"", b"HTTP/1.1 200\tOK\r\n"), WHOLE),
    "a status with a second part": (sized(b"", b"HTTP/1.1 200.1 OK\r\n"), WHOLE),
    "a reason in Latin-1": (sized(b"", b"HTTP/1.1 200 Qu\xe9\r\n"), WHOLE),
    "a reason with a control character": (sized(b"", b"HTTP/1.1 200 O\x01K\r\n"), WHOLE),
    "HTTP/1.2": (sized(b"", b"HTTP/1.2 200 OK\r\n"), WHOLE),
    "HTTP/2.0": (sized(b"", b"HTTP/2.0 200 OK\r\n"), WHOLE),
    "a blank line first": (b"\r\n" + sized(b""), WHOLE),
    "a bare LF first": (b"\n" + sized(b""), WHOLE),
    "no status": (sized(b"", b"HTTP/1.1 OK\r\n"), NO_STATUS),
    "a status of four digits": (sized(b"", b"HTTP/1.1 2000 OK\r\n"), NO_STATUS),
    "a status below 100": (sized(b"", b"HTTP/1.1 099 OK\r\n"), NO_STATUS),
    "RTSP": (sized(b"", b"RTSP/1.0 200 OK\r\n"), NO_HTTP),
    "Shoutcast": (sized(b"", b"ICY 200 OK\r\n"), NO_HTTP),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", NO_HTTP),
    "a body without a head": (EVENT, NO_HTTP),
    "a TLS alert": (b"\x15\x03\x03\x00\x02\x02\x50", f"{_INVALID}it speaks TLS: write an https:// url"),
    # Fields.
    "a folded field": (sized(b"A: b\r\n c\r\n"), WHOLE),
    "a field folded with a tab": (sized(b"A: b\r\n\tc\r\n"), WHOLE),
    "a blank before a colon": (sized(b"A : b\r\n"), WHOLE),
    "a name with brackets": (sized(b"A[0](b)/c: b\r\n"), WHOLE),
    "a name in UTF-8": (sized("é: b\r\n".encode()), WHOLE),
    "a name with an underscore": (sized(b"A_b: c\r\n"), WHOLE),
    "a line without a colon": (sized(b"Nocolon\r\n"), WHOLE),
    "a second status line": (sized(OK), WHOLE),
    "a value in Latin-1": (sized(b"A: \xe9\xff\r\n"), WHOLE),
    "a value with a control character": (sized(b"A: \x01b\x7f\r\n"), WHOLE),
    "a value with NUL": (sized(b"A: b\x00c\r\n"), WHOLE),
    "a value of 60 KiB": (sized(b"A: %b\r\n" % (b"x" * 61440)), WHOLE),
    "two hundred fields": (sized(b"A: x\r\n" * 200), WHOLE),
    "three thousand fields and more": (
        sized(b"A: x\r\n" * 3000),
        f"{_INVALID}it has more than 3000 fields",
    ),
    "103 first": (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + sized(b""), WHOLE),
    "100 with bare LF first": (b"HTTP/1.1 100 Continue\n\n" + sized(b""), WHOLE),
    "a switch that was not asked for": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "upstream switched to a protocol that was not requested",
    ),
}

REFUSED = {
    "RTSP": "another protocol: HAProxy passes its status line on, and no client of HTTP reads it",
    "a status of four digits": "no client of HTTP reads it",
    "a status below 100": "no client of HTTP reads it",
    "two lengths": "it is not known which is right, and a cut answer would look whole",
    "two lengths in one field": "the same",
    "gzip as a transfer coding": "the client would get a compressed body without a sign of it",
    "gzip, chunked": "the same",
}
"""What nginx or HAProxy passes and the proxy does not, with the reason."""
