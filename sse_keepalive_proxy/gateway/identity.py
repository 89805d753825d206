"""Identify a client by the JSON Web Token in its request (RFC 7519).

PyJWT checks the signature. This module checks the claims, with the clock as an argument. Only a route with an
`identity` needs the extra `jwt`. No text contains any part of a token: the reason of a rejection is one of a
fixed list, and the `repr` of a holder does not show the claims.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

from sse_keepalive_proxy.config.types.key_file import extra_fault, key_fault
from sse_keepalive_proxy.errors import ConfigurationError, Problem
from sse_keepalive_proxy.gateway.credentials import values
from sse_keepalive_proxy.http.request import ClientRequest
from sse_keepalive_proxy.stream.policy import Identity, Verify

__all__ = ["LEEWAY", "Holder", "Identifier", "TokenRejection"]

LEEWAY = 60.0
"""Seconds by which clocks may differ, as in notify-server (facts.md#notify-server-tokens)."""

_LONGEST_TOKEN = 64 << 10  # bytes
_NEVER = 253402300800.0
"""Unix seconds: the year 10000. A later expiry counts as none."""


class TokenRejection(StrEnum):
    """Why a token is not accepted, as text for a log line."""

    NO_TOKEN = "the request has no token"  # noqa: S105 - a sentence
    SEVERAL = "the request has several tokens"
    MALFORMED = "the request's token is not a valid JSON Web Token"
    ALGORITHM = "the token is signed with an algorithm that is not in `algorithms`"
    SIGNATURE = "the token's signature does not match: `public_key_file` may contain the wrong key"
    AUDIENCE = "the token's `aud` is not the configured `audience`"
    ISSUER = "the token's `iss` is not the configured `issuer`"
    EARLY = "the token's `nbf` is in the future: one of the clocks may be wrong"
    EXPIRED = "the token has expired"

    @property
    def may_be_ours(self) -> bool:
        """Whether the configuration may be wrong, and not the client. This is logged for the operator, but
        only once per route, because any client can cause it.
        """
        ours = (
            TokenRejection.ALGORITHM,
            TokenRejection.SIGNATURE,
            TokenRejection.AUDIENCE,
            TokenRejection.ISSUER,
            TokenRejection.EARLY,
        )
        return self in ours


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a token. `expires_at`: Unix seconds, or None if the token does not expire."""

    claims: Mapping[str, Any] = field(repr=False)
    expires_at: float | None

    def lives(self, now_wall: float) -> float | None:
        """Return the seconds until the token expires, 0 if it has expired, None if it does not expire."""
        return None if self.expires_at is None else max(0.0, self.expires_at - now_wall)


class Identifier:
    """Identify the clients of a route by its `policy`. `now` returns Unix seconds.

    The key file is read once. A new key is used after the next reload. Raises ConfigurationError if the extra
    `jwt` is missing or the key cannot be used.
    """

    __slots__ = ("_jws", "_key", "_now", "_policy")

    def __init__(self, policy: Identity, now: Callable[[], float] = time.time) -> None:
        if fault := extra_fault():
            _refuse("identity", fault.message, fault.hint)
        import jwt

        self._policy = policy
        self._now = now
        self._jws = jwt.PyJWS(options={"verify_signature": policy.verify is Verify.JWT})
        self._key = _key(policy) if policy.verify is Verify.JWT else b""

    def identify(self, request: ClientRequest) -> Holder | TokenRejection:
        """Return the holder of the token at `policy.source`, or why it is rejected.

        With `Verify.JWT` the token is verified. With `Verify.UPSTREAM` neither its signature nor its time is
        checked: use the claims only after upstream has accepted the same request.
        """
        token = self._token(request)
        if isinstance(token, TokenRejection):
            return token
        claims = self._claims(token)
        if isinstance(claims, TokenRejection):
            return claims
        return _rejection(claims, self._policy, self._now()) or Holder(claims, _expiry(claims))

    def _token(self, request: ClientRequest) -> bytes | TokenRejection:
        found = values(request, self._policy.source)
        if len(found) > 1:
            return TokenRejection.SEVERAL
        token = found[0].strip() if found else b""
        if self._policy.source.startswith("header:"):
            scheme, _, rest = token.partition(b" ")
            token = rest.strip() if scheme.lower() == b"bearer" else token  # RFC 6750 2.1
        return token or TokenRejection.NO_TOKEN

    def _claims(self, token: bytes) -> dict[str, Any] | TokenRejection:
        """Return the claims of the token. The signature is checked if the policy requires it."""
        import jwt

        if len(token) > _LONGEST_TOKEN:
            return TokenRejection.MALFORMED
        try:
            payload = self._jws.decode(token, self._key, algorithms=list(self._policy.algorithms))
            # json.loads would also accept UTF-16 and UTF-32. RFC 7519 7.2 requires UTF-8.
            claims = json.loads(payload.decode("utf-8"), parse_constant=_no_number)
        except jwt.InvalidSignatureError:
            return TokenRejection.SIGNATURE
        except jwt.InvalidAlgorithmError:
            return TokenRejection.ALGORITHM
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return TokenRejection.MALFORMED
        return claims if isinstance(claims, dict) else TokenRejection.MALFORMED


def _rejection(claims: Mapping[str, Any], policy: Identity, now: float) -> TokenRejection | None:
    """Return why `claims` are rejected at `now` (Unix seconds), or None (RFC 7519 4.1)."""
    audiences = claims.get("aud")
    if policy.audience is not None:
        given = audiences if isinstance(audiences, list) else [audiences]
        if policy.audience not in given:
            return TokenRejection.AUDIENCE
    if policy.issuer is not None and claims.get("iss") != policy.issuer:
        return TokenRejection.ISSUER
    if policy.verify is Verify.UPSTREAM:
        return None  # upstream has checked the time, with its own clock
    for name in ("exp", "nbf"):
        if name in claims and _moment(claims[name]) is None:
            return TokenRejection.MALFORMED
    if (exp := _moment(claims.get("exp"))) is not None and exp + LEEWAY < now:
        return TokenRejection.EXPIRED
    if (nbf := _moment(claims.get("nbf"))) is not None and nbf - LEEWAY > now:
        return TokenRejection.EARLY
    return None


def _expiry(claims: Mapping[str, Any]) -> float | None:
    exp = _moment(claims.get("exp"))
    return None if exp is None or exp >= _NEVER else max(0.0, exp)


def _moment(value: object) -> float | None:
    """Return a NumericDate (RFC 7519 2), which may be any number, or None if `value` is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _no_number(_: str) -> NoReturn:
    """Reject NaN and infinities, which Python accepts and JSON does not contain (RFC 8259 6)."""
    raise ValueError


def _key(policy: Identity) -> Any:
    """Return the public key for all algorithms of `policy`. Raises ConfigurationError."""
    import jwt

    path = policy.public_key_file
    if path is None:
        _refuse("identity.public_key_file", "`verify: jwt` needs a public key", "a PEM file")
    if fault := key_fault(path, policy.algorithms):
        _refuse("identity.public_key_file", f"{path}: {fault.message}", fault.hint)
    try:
        return jwt.get_algorithm_by_name(policy.algorithms[0]).prepare_key(Path(path).read_bytes())
    except (OSError, ValueError, TypeError, jwt.PyJWTError):  # it was valid when it was checked
        _refuse("identity.public_key_file", f"{path}: changed while it was read", "reload")


def _refuse(path: str, message: str, hint: str) -> NoReturn:
    raise ConfigurationError((Problem(message, path, hint),))
