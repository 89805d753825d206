"""The tokens of the stand-in, with Ed25519 and with the standard library alone."""

import base64
import json
import subprocess
import sys
from typing import Any

import jwt
import pytest

from sse_keepalive_proxy.demo import tokens
from sse_keepalive_proxy.demo.tokens import Ed25519Tokens, Hs256Tokens, TokenRefused, Tokens, new_tokens
from tests.support.clock import ManualClock


def part(token: str, index: int) -> bytes:
    text = token.split(".")[index]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def clock() -> ManualClock:
    return ManualClock(1750992346.0)


@pytest.fixture(params=[Ed25519Tokens, Hs256Tokens], ids=["EdDSA", "HS256"])
def issuer(request: pytest.FixtureRequest) -> Tokens:
    kind: type[Ed25519Tokens | Hs256Tokens] = request.param
    return kind(clock())


def refusal(issuer: Tokens, token: str) -> str:
    with pytest.raises(TokenRefused) as refused:
        issuer.verify(token)
    return str(refused.value)


def test_the_header_and_the_claims_are_those_of_notify_server() -> None:
    token = Ed25519Tokens(clock()).issue(2)
    assert part(token, 0) == b'{"typ":"JWT","alg":"EdDSA"}'
    claims = json.loads(part(token, 1))
    assert list(claims) == ["sub", "exp", "iat", "aud", "iss", "user"]
    assert (claims["sub"], claims["exp"], claims["iat"]) == ("2", 1750992346 + 1800, 1750992346)
    assert (claims["aud"], claims["iss"]) == ("fechatter-web", "fechatter-server")
    assert list(claims["user"]) == ["id", "workspace_id", "fullname", "email", "status", "created_at"]
    assert claims["user"]["id"] == 2


def test_others_can_verify_with_the_public_key() -> None:
    issuer = Ed25519Tokens()
    claims = jwt.decode(
        issuer.issue(7), issuer.public_key_pem, algorithms=["EdDSA"], audience="fechatter-web"
    )
    assert claims["user"]["id"] == 7


def test_a_token_of_its_own_is_accepted(issuer: Tokens) -> None:
    assert issuer.verify(issuer.issue(3))["user"]["id"] == 3


@pytest.mark.parametrize(("lifetime", "accepted"), [(1, True), (-59, True), (-60, True), (-61, False)])
def test_the_leeway_is_sixty_seconds(issuer: Tokens, lifetime: float, accepted: bool) -> None:
    token = issuer.issue(2, lifetime=lifetime)
    if accepted:
        issuer.verify(token)
    else:
        assert refusal(issuer, token) == 'Token verification failed: ValidationError("ExpiredSignature")'


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "others"}, "InvalidAudience"),
        ({"aud": None}, "InvalidAudience"),
        ({"iss": "others"}, "InvalidIssuer"),
        ({"exp": None}, "Missing required claim: exp"),
        ({"user": None}, "InvalidToken"),
        ({"user": {"id": "2"}}, "InvalidToken"),
    ],
)
def test_claims_are_checked(issuer: Tokens, claims: dict[str, Any], reason: str) -> None:
    assert refusal(issuer, issuer.issue(2, claims=claims)).endswith(f'ValidationError("{reason}")')


def test_another_key_is_not_accepted() -> None:
    assert "InvalidSignature" in refusal(Ed25519Tokens(), Ed25519Tokens().issue(2))
    assert "InvalidSignature" in refusal(Hs256Tokens(), Hs256Tokens().issue(2))


def test_another_algorithm_is_not_accepted() -> None:
    assert "InvalidAlgorithm" in refusal(Ed25519Tokens(), Hs256Tokens().issue(2))
    assert "InvalidAlgorithm" in refusal(Hs256Tokens(), Ed25519Tokens().issue(2))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "..", "é.é.é", "e30.e30.e30", "W10.W10.W10"])
def test_text_that_is_not_a_token_is_refused(issuer: Tokens, token: str) -> None:
    assert refusal(issuer, token).startswith('Token verification failed: ValidationError("Invalid')


def test_ed25519_is_chosen_where_it_can_be() -> None:
    assert tokens.HAS_ED25519
    assert isinstance(new_tokens(), Ed25519Tokens)


def test_without_pyjwt_tokens_are_hs256() -> None:
    program = """
import sys
sys.modules["jwt"] = None
from sse_keepalive_proxy.demo.tokens import Hs256Tokens, new_tokens
made = new_tokens()
assert isinstance(made, Hs256Tokens) and made.public_key_pem is None
assert made.verify(made.issue(2))["sub"] == "2"
"""
    subprocess.run([sys.executable, "-c", program], check=True)
