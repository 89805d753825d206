"""Tokens like those of notify-server (facts.md#notify-server-tokens), signed with the stand-in's own key.

With the extra `jwt` they use EdDSA (Ed25519). Without it they use HS256 from the standard library, with the
same claims and errors, so that the demo needs no extras. Other programs cannot verify such a token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

try:
    import jwt
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    HAS_ED25519 = True
except ImportError:
    HAS_ED25519 = False

__all__ = ["HAS_ED25519", "Ed25519Tokens", "Hs256Tokens", "TokenRefused", "Tokens", "new_tokens"]

AUDIENCE = "fechatter-web"
ISSUER = "fechatter-server"
LIFETIME = 30 * 60.0  # seconds
LEEWAY = 60.0  # seconds for which `exp` may be in the past


class TokenRefused(Exception):
    """A token is not accepted. The text of the error is the body of the 401."""

    def __init__(self, reason: str) -> None:
        super().__init__(f'Token verification failed: ValidationError("{reason}")')
        self.reason = reason


class Tokens(Protocol):
    """Issue and verify tokens."""

    @property
    def public_key_pem(self) -> bytes | None:
        """The public key for other programs, as PEM, or None."""

    def issue(
        self, user_id: int, *, lifetime: float = LIFETIME, claims: Mapping[str, Any] | None = None
    ) -> str:
        """Return a token for a user.

        `lifetime` is in seconds; a negative one gives an expired token. `claims` replace the default claims;
        None removes one.
        """

    def verify(self, token: str, *, left: float = -LEEWAY) -> dict[str, Any]:
        """Return the claims of a valid token with at least `left` seconds to live.

        Raises `TokenRefused` with the text of notify-server.
        """


def new_tokens(now: Callable[[], float] = time.time) -> Tokens:
    """Return tokens with a new key: Ed25519, or HS256 without PyJWT."""
    return Ed25519Tokens(now) if HAS_ED25519 else Hs256Tokens(now)


class Ed25519Tokens:
    """Tokens with EdDSA, by PyJWT. `now` returns seconds since the epoch."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._key = Ed25519PrivateKey.generate()

    @property
    def public_key_pem(self) -> bytes | None:
        """The public key for other programs, as PEM."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def issue(
        self, user_id: int, *, lifetime: float = LIFETIME, claims: Mapping[str, Any] | None = None
    ) -> str:
        """A token for a user (see `Tokens`)."""
        body = json.dumps(_claims(user_id, self._now(), lifetime, claims), separators=(",", ":"))
        return jwt.api_jws.encode(body.encode(), self._key, algorithm="EdDSA", sort_headers=False)

    def verify(self, token: str, *, left: float = -LEEWAY) -> dict[str, Any]:
        """The claims of a good token (see `Tokens`)."""
        try:
            body: bytes = jwt.api_jws.decode(token, self._key.public_key(), algorithms=["EdDSA"])
        except jwt.InvalidSignatureError:
            raise TokenRefused("InvalidSignature") from None
        except jwt.InvalidAlgorithmError:
            raise TokenRefused("InvalidAlgorithm") from None
        except (jwt.InvalidTokenError, ValueError):
            raise TokenRefused("InvalidToken") from None
        return _checked(body, self._now() + left)


class Hs256Tokens:
    """Tokens with HS256, by the standard library."""

    public_key_pem: bytes | None = None

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._secret = secrets.token_bytes(32)

    def issue(
        self, user_id: int, *, lifetime: float = LIFETIME, claims: Mapping[str, Any] | None = None
    ) -> str:
        """A token for a user (see `Tokens`)."""
        header = {"typ": "JWT", "alg": "HS256"}
        parts = (header, _claims(user_id, self._now(), lifetime, claims))
        signed = b".".join(_base64(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
        return b".".join((signed, _base64(self._sign(signed)))).decode()

    def verify(self, token: str, *, left: float = -LEEWAY) -> dict[str, Any]:
        """The claims of a good token (see `Tokens`)."""
        try:
            header, body, signature = (_unbase64(part) for part in token.split("."))
            algorithm = json.loads(header)["alg"]
        except (ValueError, KeyError, TypeError):
            raise TokenRefused("InvalidToken") from None
        if algorithm != "HS256":
            raise TokenRefused("InvalidAlgorithm")
        signed = token.rpartition(".")[0].encode()
        if not hmac.compare_digest(signature, self._sign(signed)):
            raise TokenRefused("InvalidSignature")
        return _checked(body, self._now() + left)

    def _sign(self, signed: bytes) -> bytes:
        return hmac.digest(self._secret, signed, hashlib.sha256)


def _claims(user_id: int, now: float, lifetime: float, replaced: Mapping[str, Any] | None) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "sub": str(user_id),
        "exp": int(now + lifetime),
        "iat": int(now),
        "aud": AUDIENCE,
        "iss": ISSUER,
        "user": {
            "id": user_id,
            "workspace_id": 2,
            "fullname": f"User {user_id}",
            "email": f"user{user_id}@example.com",
            "status": "Active",
            "created_at": "2025-01-01T00:00:00Z",
        },
    }
    claims.update(replaced or {})
    return {name: value for name, value in claims.items() if value is not None}


def _checked(body: bytes, at: float) -> dict[str, Any]:
    """Return the claims of a signed body that is valid until `at`, in seconds since the epoch."""
    try:
        claims = json.loads(body)
        user_id = claims["user"]["id"]
    except (ValueError, KeyError, TypeError):
        raise TokenRefused("InvalidToken") from None
    if not isinstance(user_id, int) or isinstance(user_id, bool):
        raise TokenRefused("InvalidToken")
    if not isinstance(claims.get("exp"), int | float):
        raise TokenRefused("Missing required claim: exp")
    if claims["exp"] < at:
        raise TokenRefused("ExpiredSignature")
    if claims.get("iss") != ISSUER:
        raise TokenRefused("InvalidIssuer")
    if claims.get("aud") != AUDIENCE:
        raise TokenRefused("InvalidAudience")
    return dict(claims)


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64url") from None
