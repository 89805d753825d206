"""Who brings a request: believed only with proof, and nothing of a token is ever repeated."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.errors import ConfigurationError
from sse_keepalive_proxy.gateway import identity
from sse_keepalive_proxy.gateway.identity import LEEWAY, Holder, Identifier, TokenRejection
from sse_keepalive_proxy.stream.policy import Identity, Verify
from tests.http.asking import incoming

NOW = 1750992346.0
CLAIMS = {
    "sub": "2",
    "exp": NOW + 1800,
    "iat": NOW,
    "aud": "fechatter-web",
    "iss": "fechatter-server",
    "user": {"id": 2, "email": "two@example.com"},
}
PrivateKey = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

OURS = ed25519.Ed25519PrivateKey.generate()
ANOTHER = ed25519.Ed25519PrivateKey.generate()


def pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("keys") / "public.pem"
    path.write_bytes(pem(OURS))
    return str(path)


def signed(payload: Any, key: PrivateKey | str = OURS, algorithm: str = "EdDSA", **header: Any) -> str:
    """A token with that payload: claims as JSON, or any bytes."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return jwt.api_jws.encode(body, key, algorithm=algorithm, headers=header)


def identifier(key_file: str | None, **policy: Any) -> Identifier:
    return Identifier(Identity(public_key_file=key_file, **policy), now=lambda: NOW)


def asked(who: Identifier, token: str) -> Holder | TokenRejection:
    return who.identify(incoming(f"/events?access_token={token}"))


def trusting(**policy: Any) -> Identifier:
    return identifier(None, verify=Verify.UPSTREAM, **policy)


def claims(**changed: Any) -> dict[str, Any]:
    return {name: value for name, value in {**CLAIMS, **changed}.items() if value is not ...}


# A good token.


def test_the_holder_of_a_good_token_is_known_by_its_claims(key_file: str) -> None:
    who = identifier(key_file, audience="fechatter-web", issuer="fechatter-server")
    holder = asked(who, signed(CLAIMS))
    assert holder == Holder(CLAIMS, NOW + 1800)
    assert isinstance(holder, Holder)
    assert holder.lives(NOW + 300) == 1500
    assert holder.lives(NOW + 1800) == 0
    assert holder.lives(NOW + 9999) == 0


def test_a_token_without_an_end_lives_for_ever(key_file: str) -> None:
    holder = asked(identifier(key_file), signed(claims(exp=...)))
    assert isinstance(holder, Holder)
    assert holder.expires_at is None
    assert holder.lives(NOW) is None


@pytest.mark.parametrize("value", [b"%b", b"Bearer %b", b"bearer %b", b"BEARER   %b", b" %b "])
def test_a_header_may_hold_the_token_alone_or_as_a_bearer(key_file: str, value: bytes) -> None:
    who = identifier(key_file, source="header:authorization")
    field = (b"Authorization", value % signed(CLAIMS).encode())
    assert who.identify(incoming("/events?access_token=x", [field])) == Holder(CLAIMS, NOW + 1800)


def test_a_query_knows_no_bearer(key_file: str) -> None:
    assert asked(identifier(key_file), f"Bearer%20{signed(CLAIMS)}") is TokenRejection.MALFORMED


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "ES384", "RS256", "PS512"])
def test_every_kind_of_key_proves_its_own_tokens(tmp_path: Path, algorithm: str) -> None:
    def new() -> PrivateKey:
        match algorithm:
            case "EdDSA":
                return ed25519.Ed25519PrivateKey.generate()
            case "ES256":
                return ec.generate_private_key(ec.SECP256R1())
            case "ES384":
                return ec.generate_private_key(ec.SECP384R1())
        return rsa.generate_private_key(65537, 2048)

    key, path = new(), tmp_path / "key.pem"
    path.write_bytes(pem(key))
    who = identifier(str(path), algorithms=(algorithm,))
    assert isinstance(asked(who, signed(CLAIMS, key, algorithm)), Holder)
    assert asked(who, signed(CLAIMS, new(), algorithm)) is TokenRejection.SIGNATURE


def test_a_key_that_was_replaced_is_seen_by_the_next_identifier_only(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(OURS))
    before = identifier(str(path))
    path.write_bytes(pem(ANOTHER))
    after = identifier(str(path))
    assert isinstance(asked(before, signed(CLAIMS)), Holder)
    assert asked(after, signed(CLAIMS)) is TokenRejection.SIGNATURE
    assert isinstance(asked(after, signed(CLAIMS, ANOTHER)), Holder)


# No token, or one too many.


@pytest.mark.parametrize("target", ["/events", "/events?access_token", "/events?access_token=", "/?token=a"])
def test_without_a_token_there_is_no_holder(key_file: str, target: str) -> None:
    assert identifier(key_file).identify(incoming(target)) is TokenRejection.NO_TOKEN
    assert trusting().identify(incoming(target)) is TokenRejection.NO_TOKEN


@pytest.mark.parametrize("value", [b"", b"Bearer", b"Bearer ", b" "])
def test_a_header_without_a_token_is_none(key_file: str, value: bytes) -> None:
    who = identifier(key_file, source="header:authorization")
    assert who.identify(incoming("/", [(b"Authorization", value)])) is TokenRejection.NO_TOKEN


def test_of_several_tokens_none_is_believed_even_when_they_are_the_same(key_file: str) -> None:
    token = signed(CLAIMS)
    for who in (identifier(key_file), trusting()):
        for second in (token, "", "x"):
            target = f"/?access_token={token}&access_token={second}"
            assert who.identify(incoming(target)) is TokenRejection.SEVERAL
    field = (b"Authorization", f"Bearer {token}".encode())
    who = identifier(key_file, source="header:authorization")
    assert who.identify(incoming("/", [field, field])) is TokenRejection.SEVERAL


# Not proven.


def test_a_token_of_another_key_is_not_believed(key_file: str) -> None:
    assert asked(identifier(key_file), signed(CLAIMS, ANOTHER)) is TokenRejection.SIGNATURE


def test_a_token_that_was_changed_is_not_believed(key_file: str) -> None:
    head, body, signature = signed(CLAIMS).split(".")
    other = signed(claims(sub="3")).split(".")[1]
    for token in (f"{head}.{other}.{signature}", f"{head}.{body}.{signature[::-1]}", f"{head}.{body}."):
        assert asked(identifier(key_file), token) in (TokenRejection.SIGNATURE, TokenRejection.MALFORMED)
    assert asked(identifier(key_file), f"{head}.{other}.{signature}") is TokenRejection.SIGNATURE


def unsigned(payload: Any, header: Mapping[str, Any] | None = None, signature: bytes = b"x") -> str:
    """A token put together by hand."""
    head = {"typ": "JWT", "alg": "EdDSA"} if header is None else header
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    parts = (json.dumps(head).encode(), body, signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_only_the_configured_algorithms_count_whatever_the_token_says(key_file: str) -> None:
    # The old trick: the public key, known to all, as the secret of an HMAC.
    body = base64.urlsafe_b64encode(json.dumps(CLAIMS).encode()).rstrip(b"=").decode()
    for algorithm in ("none", "None", "HS256", "RS256", "ES256", "", "EdDSA ", 7, None, ["EdDSA"], {"a": 1}):
        token = unsigned(CLAIMS, {"alg": algorithm})
        assert body in token
        assert asked(identifier(key_file), token) is TokenRejection.ALGORITHM
    assert asked(identifier(key_file), unsigned(CLAIMS, {"typ": "JWT"})) is TokenRejection.ALGORITHM
    secret = signed(CLAIMS, "x" * 32, "HS256")
    assert asked(identifier(key_file), secret) is TokenRejection.ALGORITHM


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"exp": NOW - LEEWAY}, None),
        ({"exp": NOW - LEEWAY - 1}, TokenRejection.EXPIRED),
        ({"exp": NOW - LEEWAY + 0.5}, None),
        ({"exp": int(NOW)}, None),
        ({"exp": 0}, TokenRejection.EXPIRED),
        ({"exp": -1}, TokenRejection.EXPIRED),
        ({"exp": -(10**400)}, TokenRejection.EXPIRED),
        ({"exp": 10**400}, None),
        ({"exp": 1e300}, None),
        ({"exp": "1750999999"}, TokenRejection.MALFORMED),
        ({"exp": None}, TokenRejection.MALFORMED),
        ({"exp": True}, TokenRejection.MALFORMED),
        ({"exp": [NOW + 1]}, TokenRejection.MALFORMED),
        ({"nbf": NOW + LEEWAY}, None),
        ({"nbf": NOW + LEEWAY + 1}, TokenRejection.EARLY),
        ({"nbf": 10**400}, TokenRejection.EARLY),
        ({"nbf": "0"}, TokenRejection.MALFORMED),
        ({"nbf": NOW, "iat": NOW + 9999, "sub": 2, "jti": 7}, None),
    ],
)
def test_the_time_must_be_right_give_or_take_a_minute(
    key_file: str, changed: dict[str, Any], why: TokenRejection | None
) -> None:
    found = asked(identifier(key_file), signed(claims(**changed)))
    assert (found is why) if why else isinstance(found, Holder)


@pytest.mark.parametrize(
    ("aud", "iss", "why"),
    [
        ("fechatter-web", "fechatter-server", None),
        (["x", "fechatter-web"], "fechatter-server", None),
        ("fechatter", "fechatter-server", TokenRejection.AUDIENCE),
        (["x", ["fechatter-web"]], "fechatter-server", TokenRejection.AUDIENCE),
        ([], "fechatter-server", TokenRejection.AUDIENCE),
        ({"fechatter-web": 1}, "fechatter-server", TokenRejection.AUDIENCE),
        (None, "fechatter-server", TokenRejection.AUDIENCE),
        (..., "fechatter-server", TokenRejection.AUDIENCE),
        ("fechatter-web", "fechatter-server2", TokenRejection.ISSUER),
        ("fechatter-web", ["fechatter-server"], TokenRejection.ISSUER),
        ("fechatter-web", None, TokenRejection.ISSUER),
        ("fechatter-web", ..., TokenRejection.ISSUER),
    ],
)
def test_audience_and_issuer_must_match_in_both_modes(
    key_file: str, aud: Any, iss: Any, why: TokenRejection | None
) -> None:
    token = signed(claims(aud=aud, iss=iss))
    meant = {"audience": "fechatter-web", "issuer": "fechatter-server"}
    for found in (asked(identifier(key_file, **meant), token), asked(trusting(**meant), token)):
        assert (found is why) if why else isinstance(found, Holder)
    for found in (asked(identifier(key_file), token), asked(trusting(), token)):
        assert isinstance(found, Holder), "what is not configured is not looked at"


# Trusted once upstream has accepted.


def test_where_upstream_verifies_neither_signature_nor_time_is_checked() -> None:
    for changed in ({"exp": NOW - 9999}, {"nbf": NOW + 9999}):
        holder = asked(trusting(), signed(claims(**changed), ANOTHER))
        assert isinstance(holder, Holder)
    assert asked(trusting(), unsigned(CLAIMS, {"alg": "HS256"})) == Holder(CLAIMS, NOW + 1800)


@pytest.mark.parametrize(
    ("exp", "expires_at"),
    [
        (..., None),
        (None, None),
        ("soon", None),
        ("1750999999", None),
        (True, None),
        ({}, None),
        (1750999999, 1750999999.0),
        (0.5, 0.5),
        (-5, 0.0),
        (-(10**400), 0.0),
        (10**400, None),
        (1750999999000, None),
    ],
)
def test_an_end_that_is_none_or_far_beyond_all_calendars_is_no_end(
    exp: Any, expires_at: float | None
) -> None:
    holder = asked(trusting(), signed(claims(exp=exp), ANOTHER))
    assert isinstance(holder, Holder)
    assert holder.expires_at == expires_at


# Whatever is sent.

DEEP = b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"2",
        b'"claims"',
        b"[]",
        b'[{"sub":"2"}]',
        b"{",
        b'{"exp":NaN}',
        b'{"exp":Infinity}',
        b'{"a":[-Infinity]}',
        b'{"sub":"\xff\xfe"}',
        b"\xef\xbb\xbf{}",
        '{"sub":"2"}'.encode("utf-16"),
        b'{"exp":' + b"9" * 5000 + b"}",
        b"\0",
        DEEP,
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_claims_that_are_no_json_object_are_none_even_when_signed(key_file: str, payload: bytes) -> None:
    assert asked(identifier(key_file), signed(payload)) is TokenRejection.MALFORMED
    assert asked(trusting(), unsigned(payload)) is TokenRejection.MALFORMED


def test_a_number_beyond_all_numbers_ends_nothing(key_file: str) -> None:
    token = signed(b'{"exp":1e999,"user":{"id":1e999}}')
    for who in (identifier(key_file), trusting()):
        holder = asked(who, token)
        assert isinstance(holder, Holder)
        assert holder.expires_at is None


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "..",
        "...",
        "a.b.c",
        ".e30.",
        "e30.e30",
        "e30.e30.e30.e30.e30",
        "%00",
        "%ff.%ff.%ff",
        "é".encode().decode("latin-1"),
        unsigned(CLAIMS, {"alg": "EdDSA", "crit": ["exp"]}),
        unsigned(CLAIMS, {"alg": "EdDSA", "b64": False, "crit": ["b64"]}),
        unsigned(CLAIMS, {"alg": "EdDSA", "kid": 7}),
        base64.urlsafe_b64encode(b"[" * 20_000).decode().rstrip("=") + ".e30.e30",
        base64.urlsafe_b64encode(b"\xff").decode().rstrip("=") + ".e30.e30",
        base64.urlsafe_b64encode(b"[]").decode().rstrip("=") + ".e30.e30",
        "a" * 3_000_000,
        unsigned({"a": "x" * 3_000_000}),
    ],
    ids=lambda token: token[:20],
)
def test_an_invalid_token_is_rejected_without_an_exception(key_file: str, token: str) -> None:
    assert asked(identifier(key_file), token) is TokenRejection.MALFORMED
    assert asked(trusting(), token) is TokenRejection.MALFORMED


def test_a_token_longer_than_any_sane_one_is_not_read_even_when_it_is_good(key_file: str) -> None:
    for size, good in ((10_000, True), (64 << 10, False)):
        token = signed({"a": "x" * size})
        assert isinstance(asked(identifier(key_file), token), Holder) == good


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40) | st.just("e30.e30.e30"))
def test_no_query_whatever_makes_it_fail(query: str) -> None:
    for text in (query, f"{signed(CLAIMS, ANOTHER)}{query}", query + signed(CLAIMS, ANOTHER)):
        assert isinstance(asked(trusting(), text.replace("#", "")), Holder | TokenRejection)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
any_claims = st.dictionaries(
    st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "sub", "x"]), json_values, max_size=5
)


@settings(deadline=None)
@given(any_claims)
def test_no_claims_whatever_make_it_fail(key_file: str, body: dict[str, Any]) -> None:
    token = signed(json.dumps(body, allow_nan=True).replace("Infinity", "1e999").encode())
    for who in (identifier(key_file, audience="a"), identifier(key_file), trusting(), trusting(issuer="i")):
        found = asked(who, token)
        assert isinstance(found, Holder | TokenRejection)
        if isinstance(found, Holder):
            assert found.lives(NOW) is None or 0 <= found.lives(NOW) < 1e12


# What is told.


def test_no_part_of_a_token_appears_in_text() -> None:
    holder = asked(trusting(), signed(CLAIMS))
    assert isinstance(holder, Holder)
    assert "example.com" not in repr(holder)
    assert "fechatter" not in str(holder)


def test_an_operator_hears_only_of_what_may_be_the_configurations_fault() -> None:
    assert {why.name for why in TokenRejection if why.may_be_ours} == {
        "ALGORITHM",
        "SIGNATURE",
        "AUDIENCE",
        "ISSUER",
        "EARLY",
    }


# A policy that cannot be kept.


def refusal(key_file: str | None, **policy: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        identifier(key_file, **policy)
    return str(refused.value)


def test_a_key_file_that_is_not_there_is_named_with_its_key() -> None:
    said = refusal("/nowhere/key.pem")
    assert said.startswith("identity.public_key_file: /nowhere/key.pem: there is no such file")


def test_a_key_that_does_not_fit_the_algorithms_is_refused(key_file: str) -> None:
    assert "does not fit" in refusal(key_file, algorithms=("EdDSA", "RS256"))


def test_without_a_key_nothing_can_be_proven() -> None:
    assert refusal(None).startswith("identity.public_key_file: `verify: jwt` needs a public key")


def test_a_key_too_short_to_prove_anything_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.pem"
    path.write_bytes(pem(rsa.generate_private_key(65537, 1024)))
    for algorithm in ("RS256", "PS256"):
        assert "the RSA key has 1024 bits" in refusal(str(path), algorithms=(algorithm,))


def test_a_key_file_that_vanishes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "key_fault", lambda *_: None)
    said = refusal(str(tmp_path / "gone.pem"))
    assert "gone.pem: changed while it was read" in said
    (tmp_path / "junk.pem").write_bytes(b"\xffjunk")
    assert "junk.pem: changed while it was read" in refusal(str(tmp_path / "junk.pem"))


def test_without_the_extra_only_an_identity_fails_and_says_what_to_install() -> None:
    """In a process of its own, where PyJWT cannot be imported."""
    program = """
import sys
sys.modules["jwt"] = None
from sse_keepalive_proxy.errors import ConfigurationError
from sse_keepalive_proxy.gateway.identity import Identifier
from sse_keepalive_proxy.stream.policy import Identity, Verify
try:
    Identifier(Identity(verify=Verify.UPSTREAM))
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("identity: needs the extra `jwt`")
    assert "pip install" in done.stdout


def test_nothing_needs_pyjwt_until_an_identity_is_configured() -> None:
    program = "import sys, sse_keepalive_proxy.gateway.identity; print('jwt' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
