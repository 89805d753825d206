"""Who a client is: the claims of the JSON Web Token that its request brings (RFC 7519).

PyJWT checks the signature; what the claims must say is checked here, against a clock that is handed in. Only
a route with an `identity` needs the extra `jwt`. Nothing here repeats any part of a token: why one is not
believed is one of a few words, and a holder's claims do not show in its `repr`.
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
"""Seconds by which clocks may differ: as much as notify-server grants (facts.md#notify-server-tokens)."""

_LONGEST_TOKEN = 64 << 10  # bytes
_NEVER = 253402300800.0
"""Unix seconds; the year 10000. What expires later does not expire."""


class TokenRejection(StrEnum):
    """Why a request has no holder, in words for a log line."""

    NO_TOKEN = "the request brings no token"  # noqa: S105 - a sentence
    SEVERAL = "the request brings several tokens"
    MALFORMED = "what the request brings is not a usable JSON Web Token"
    ALGORITHM = "the token is signed with an algorithm that is not in `algorithms`"
    SIGNATURE = (
        "the token's signature does not match: `public_key_file` may hold another key than its issuer's"
    )
    AUDIENCE = "the token's `aud` is not the configured `audience`"
    ISSUER = "the token's `iss` is not the configured `issuer`"
    EARLY = "the token's `nbf` is still to come: one of the clocks may be wrong"
    EXPIRED = "the token has expired"

    @property
    def may_be_ours(self) -> bool:
        """Whether the configuration may be at fault, and not the client, so that an operator should hear
        of it: once per route, since any client can bring it about.
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
    """Who a token was issued to. `expires_at`: Unix seconds; None when it never expires."""

    claims: Mapping[str, Any] = field(repr=False)
    expires_at: float | None

    def lives(self, now_wall: float) -> float | None:
        """Seconds until the token expires, 0 when it has; None when it never does."""
        return None if self.expires_at is None else max(0.0, self.expires_at - now_wall)


class Identifier:
    """Says who brings a request, as a route's `policy` wants it said.

    Reads the key file once: a key that was changed is seen by the next reload. Raises ConfigurationError
    when the extra `jwt` is missing or the key cannot be used. `now` gives Unix seconds.
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
        """The holder of the one token at `policy.source`, or why there is none.

        With `Verify.JWT` the holder is proven. With `Verify.UPSTREAM` it is only what the request says,
        neither signature nor time checked: use it once upstream has accepted this very request.
        """
        token = self._token(request)
        if isinstance(token, TokenRejection):
            return token
        claims = self._claims(token)
        if isinstance(claims, TokenRejection):
            return claims
        return _against(claims, self._policy, self._now()) or Holder(claims, _expiry(claims))

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
        """The claims as they stand in the token, its signature checked where the policy wants it."""
        import jwt

        if len(token) > _LONGEST_TOKEN:
            return TokenRejection.MALFORMED
        try:
            payload = self._jws.decode(token, self._key, algorithms=list(self._policy.algorithms))
            # Decoded first: json.loads would guess at UTF-16 and UTF-32 (RFC 7519 7.2 wants UTF-8).
            claims = json.loads(payload.decode("utf-8"), parse_constant=_no_number)
        except jwt.InvalidSignatureError:
            return TokenRejection.SIGNATURE
        except jwt.InvalidAlgorithmError:
            return TokenRejection.ALGORITHM
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return TokenRejection.MALFORMED
        return claims if isinstance(claims, dict) else TokenRejection.MALFORMED


def _against(claims: Mapping[str, Any], policy: Identity, now: float) -> TokenRejection | None:
    """What speaks against `claims` at `now`, Unix seconds (RFC 7519 4.1)."""
    audiences = claims.get("aud")
    if policy.audience is not None:
        given = audiences if isinstance(audiences, list) else [audiences]
        if policy.audience not in given:
            return TokenRejection.AUDIENCE
    if policy.issuer is not None and claims.get("iss") != policy.issuer:
        return TokenRejection.ISSUER
    if policy.verify is Verify.UPSTREAM:
        return None  # upstream has looked at the time, by its own clock
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
    """A NumericDate (RFC 7519 2), which may be any number; None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _no_number(_: str) -> NoReturn:
    """For what Python takes for JSON and nobody else does: NaN and infinities (RFC 8259 6)."""
    raise ValueError


def _key(policy: Identity) -> Any:
    """The public key that signatures are checked with, ready for every algorithm of `policy`."""
    import jwt

    path = policy.public_key_file
    if path is None:
        _refuse("identity.public_key_file", "`verify: jwt` needs a public key", "a PEM file")
    if fault := key_fault(path, policy.algorithms):
        _refuse("identity.public_key_file", f"{path}: {fault.message}", fault.hint)
    try:
        return jwt.get_algorithm_by_name(policy.algorithms[0]).prepare_key(Path(path).read_bytes())
    except (OSError, ValueError, TypeError, jwt.PyJWTError):  # it was sound a moment ago
        _refuse("identity.public_key_file", f"{path}: changed while it was read", "reload")


def _refuse(path: str, message: str, hint: str) -> NoReturn:
    raise ConfigurationError((Problem(message, path, hint),))
