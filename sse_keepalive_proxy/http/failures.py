"""Explain errors of the operating system and of TLS on connections to upstream, for operators."""

from __future__ import annotations

import os
import socket
import ssl

__all__ = ["in_words", "is_of_tls"]

_EXPIRED, _NOT_YET_VALID = 10, 9
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
_OTHER_NAME = frozenset({62, 64})
"""Codes of a failed verification, from OpenSSL's `x509_vfy.h`."""

_NO_TLS = "it does not speak TLS on this port: write an http:// url, or the port of its https"
_WANTS_CERTIFICATE = "it demands a certificate of the proxy: name one in tls.client_cert"
_REFUSES_CERTIFICATE = "it refuses the proxy's certificate (tls.client_cert)"
_LEFT = f"it ended the connection during the TLS handshake. Perhaps {_WANTS_CERTIFICATE}"
_NO_COMMON_VERSION = "it speaks no TLS version from 1.2 on"
_REASONS = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _WANTS_CERTIFICATE,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it refuses the handshake: it may demand a certificate of the proxy "
    "(tls.client_cert), or know no server of this name (tls.server_name)",
    "TLSV1_UNRECOGNIZED_NAME": "it knows no server of this name: say the right one in tls.server_name",
    "TLSV1_ALERT_UNKNOWN_CA": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_BAD_CERTIFICATE": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": f"{_REFUSES_CERTIFICATE}: it has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _REFUSES_CERTIFICATE,
    "UNSUPPORTED_PROTOCOL": _NO_COMMON_VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": _NO_COMMON_VERSION,
}


def in_words(error: Exception) -> str:
    """Return why connecting failed, or why a connection broke."""
    match error:
        case socket.gaierror():
            return "the name cannot be resolved"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {_unverified(error)}"
        case ssl.SSLEOFError():
            return _LEFT
        case ssl.SSLError():
            reason = error.reason or "unknown"
            return _REASONS.get(reason, f"TLS failed: {reason.lower().replace('_', ' ')}")
        case OSError() if error.errno:
            return os.strerror(error.errno)  # asyncio's own text describes a function call
        case ConnectionResetError():
            return _LEFT  # raised by asyncio during a handshake
        case _:
            return str(error) or type(error).__name__


def is_of_tls(error: Exception) -> bool:
    """Return whether a connection was there, and its TLS handshake failed."""
    return isinstance(error, ssl.SSLError) or (isinstance(error, ConnectionResetError) and not error.errno)


def _unverified(error: ssl.SSLCertVerificationError) -> str:
    code, message = error.verify_code, error.verify_message
    if code in _UNKNOWN_AUTHORITY:
        return f"{message}: name its authority in tls.ca_file"
    if code in _OTHER_NAME:
        return f"{message.rstrip('.')}: say the name that it has in tls.server_name"
    if code == _EXPIRED:
        return "it has expired"
    if code == _NOT_YET_VALID:
        return "it is not valid yet: is this host's clock right?"
    return message
