"""Check the public key file of an `identity`. No message contains any content of the file."""

from __future__ import annotations

from collections.abc import Sequence

from sse_keepalive_proxy.config.types.fields import Fault
from sse_keepalive_proxy.config.types.files import content_of
from sse_keepalive_proxy.config.types.shapes import ALGORITHMS

__all__ = ["extra_fault", "key_fault"]

_FEWEST_RSA_BITS = 2048


def extra_fault() -> Fault | None:
    """Return the fault if the extra `jwt` is not installed: PyJWT and cryptography."""
    try:
        import cryptography  # noqa: F401
        import jwt  # noqa: F401
    except ImportError:
        message = "needs the extra `jwt`, which is not installed"
        return Fault(message, "pip install 'sse-keepalive-proxy[jwt]'")
    return None


def key_fault(path: str, algorithms: Sequence[str]) -> Fault | None:
    """Return the fault if the file at `path` is not a public key for all `algorithms`.

    Needs the extra `jwt`.
    """
    content = content_of(path)
    if isinstance(content, Fault):
        return content
    if b"PRIVATE KEY-----" in content:
        return Fault("contains a private key; only the server may have it", "openssl pkey -in KEY -pubout")
    if b"-----BEGIN CERTIFICATE-----" in content:
        return Fault(
            "contains a certificate, not a public key", "openssl x509 -in CERTIFICATE -pubkey -noout"
        )
    fitting = [name for name in ALGORITHMS if _fits(content, name)]
    if not fitting:
        hint = "use a PEM file that begins with -----BEGIN PUBLIC KEY-----"
        return Fault("contains no usable public key", hint)
    unfit = [name for name in algorithms if name not in fitting]
    if unfit:
        return Fault(f"the key does not fit {', '.join(unfit)}", f"it fits {', '.join(fitting)}")
    return _weakness(content, fitting[0])


def _weakness(content: bytes, algorithm: str) -> Fault | None:
    """Return the fault of an RSA key that is too short to be safe (RFC 7518 3.3)."""
    import jwt

    bits = getattr(jwt.get_algorithm_by_name(algorithm).prepare_key(content), "key_size", 0)
    if not algorithm.startswith(("RS", "PS")) or bits >= _FEWEST_RSA_BITS:
        return None
    return Fault(f"the RSA key has {bits} bits, which is too weak", "RFC 7518 requires at least 2048")


def _fits(content: bytes, algorithm: str) -> bool:
    """Whether PyJWT accepts `content` as a key for `algorithm`."""
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        jwt.get_algorithm_by_name(algorithm).prepare_key(content)
    except (jwt.InvalidKeyError, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True
