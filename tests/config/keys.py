"""Key pairs of the tests' own, made anew each time: PEM as key files hold it."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

_PAIRS = {
    "ED25519": Ed25519PrivateKey.generate(),
    "P256": ec.generate_private_key(ec.SECP256R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "WEAK_RSA": rsa.generate_private_key(65537, 1024),
}


def _public(name: str) -> bytes:
    return _PAIRS[name].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


ED25519, P256, RSA, WEAK_RSA = map(_public, _PAIRS)
PRIVATE = _PAIRS["ED25519"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
