"""The public key file of an `identity`: whether signatures can be checked with it, and what is wrong if not.

Owns the reading of the file while a configuration is checked, bounded and of ordinary files only, so that
neither a pipe nor a device holds the check up. No message holds anything of what is in the file.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from sse_keepalive_proxy.config.types.fields import Fault
from sse_keepalive_proxy.config.types.shapes import ALGORITHMS

__all__ = ["extra_fault", "key_fault"]

_LARGEST_FILE = 64 << 10
_FEWEST_RSA_BITS = 2048


def extra_fault() -> Fault | None:
    """What to say when the extra `jwt` is not there: PyJWT and the cryptography that it needs."""
    try:
        import cryptography  # noqa: F401
        import jwt  # noqa: F401
    except ImportError:
        message = "needs the extra `jwt`, which is not installed"
        return Fault(message, "pip install 'sse-keepalive-proxy[jwt]'")
    return None


def key_fault(path: str, algorithms: Sequence[str]) -> Fault | None:
    """Why the file at `path` is no public key for every one of `algorithms`, or None when it is.

    Needs the extra `jwt`.
    """
    content = _content(Path(path))
    if isinstance(content, Fault):
        return content
    if b"PRIVATE KEY-----" in content:
        return Fault("holds a private key; it belongs to the server alone", "openssl pkey -in KEY -pubout")
    if b"-----BEGIN CERTIFICATE-----" in content:
        return Fault("holds a certificate, not a public key", "openssl x509 -in CERTIFICATE -pubkey -noout")
    fitting = [name for name in ALGORITHMS if _fits(content, name)]
    if not fitting:
        return Fault("holds no usable public key", "a PEM file that begins with -----BEGIN PUBLIC KEY-----")
    unfit = [name for name in algorithms if name not in fitting]
    if unfit:
        return Fault(f"the key does not fit {', '.join(unfit)}", f"it is one for {', '.join(fitting)}")
    return _weakness(content, fitting[0])


def _content(path: Path) -> bytes | Fault:
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            return Fault("is a directory, not a file")
        if not stat.S_ISREG(kind):
            return Fault("is not an ordinary file", "write the key to one")
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        return Fault("there is no such file", "a relative path counts from where the proxy is started")
    except PermissionError:
        return Fault("may not be read by this user")
    except OSError as error:
        return Fault(f"cannot be read: {error.strerror}")
    return content if len(content) <= _LARGEST_FILE else Fault("larger than 64KiB", "is this the right file?")


def _weakness(content: bytes, algorithm: str) -> Fault | None:
    """Why the key proves nothing though it fits: an RSA key that is too short (RFC 7518 3.3)."""
    import jwt

    bits = getattr(jwt.get_algorithm_by_name(algorithm).prepare_key(content), "key_size", 0)
    if not algorithm.startswith(("RS", "PS")) or bits >= _FEWEST_RSA_BITS:
        return None
    return Fault(f"the RSA key has {bits} bits, too few to prove anything", "RFC 7518 asks for 2048 at least")


def _fits(content: bytes, algorithm: str) -> bool:
    """Whether PyJWT takes `content` as a key for `algorithm`."""
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        jwt.get_algorithm_by_name(algorithm).prepare_key(content)
    except (jwt.InvalidKeyError, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True
