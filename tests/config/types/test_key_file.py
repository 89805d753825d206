"""A public key file is one that signatures can be checked with, or is told why not, without a word of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sse_keepalive_proxy.config.types.fields import Fault
from sse_keepalive_proxy.config.types.key_file import extra_fault, key_fault
from tests.config.keys import ED25519, P256, PRIVATE, RSA, WEAK_RSA

EDDSA = ("EdDSA",)


def fault_of(folder: Path, content: bytes, algorithms: tuple[str, ...] = EDDSA) -> Fault | None:
    path = folder / "key.pem"
    path.write_bytes(content)
    return key_fault(str(path), algorithms)


@pytest.mark.parametrize(
    ("content", "algorithms"),
    [
        (ED25519, EDDSA),
        (P256, ("ES256",)),
        (RSA, ("RS256", "RS512", "PS384")),
        (b"\n" + ED25519 + b"\n", EDDSA),
        (b"the key of fechatter\n" + ED25519, EDDSA),
    ],
    ids=["Ed25519", "P-256", "RSA", "blank lines around", "a line of text before"],
)
def test_a_public_key_that_fits_every_algorithm_is_good(
    tmp_path: Path, content: bytes, algorithms: tuple[str, ...]
) -> None:
    assert fault_of(tmp_path, content, algorithms) is None


@pytest.mark.parametrize(
    ("content", "algorithms", "unfit", "kind"),
    [
        (ED25519, ("ES256",), "ES256", "EdDSA"),
        (ED25519, ("EdDSA", "RS256", "ES256"), "RS256, ES256", "EdDSA"),
        (P256, ("ES256", "ES384"), "ES384", "ES256"),
        (RSA, EDDSA, "EdDSA", "RS256, RS384, RS512, PS256, PS384, PS512"),
    ],
)
def test_a_key_of_another_kind_is_refused_with_its_algorithms(
    tmp_path: Path, content: bytes, algorithms: tuple[str, ...], unfit: str, kind: str
) -> None:
    expected = Fault(f"the key does not fit {unfit}", f"it fits {kind}")
    assert fault_of(tmp_path, content, algorithms) == expected


def test_an_rsa_key_that_is_too_short_to_prove_anything_is_refused(tmp_path: Path) -> None:
    fault = fault_of(tmp_path, WEAK_RSA, ("PS256",))
    assert fault == Fault("the RSA key has 1024 bits, which is too weak", "RFC 7518 requires at least 2048")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hunter2",
        b"\xff\xfe\x00",
        b"-----BEGIN PUBLIC KEY-----\nhunter2\n-----END PUBLIC KEY-----\n",
        ED25519[: len(ED25519) // 2],
    ],
    ids=["empty", "a password", "no text", "nonsense in PEM", "cut off"],
)
@pytest.mark.parametrize("algorithms", [EDDSA, ("ES256",), ("RS256",), ()])
def test_a_file_without_a_key_is_refused_without_a_quote_of_it(
    tmp_path: Path, content: bytes, algorithms: tuple[str, ...]
) -> None:
    fault = fault_of(tmp_path, content, algorithms)
    assert fault is not None
    assert fault.message == "contains no usable public key"
    assert "hunter2" not in str(fault)


def test_a_private_key_is_refused_though_it_could_check_signatures(tmp_path: Path) -> None:
    for content in (PRIVATE, PRIVATE + ED25519):
        fault = fault_of(tmp_path, content)
        assert fault is not None
        assert fault.message == "contains a private key; only the server may have it"


def test_a_certificate_is_refused_with_the_command_that_extracts_its_key(tmp_path: Path) -> None:
    fault = fault_of(tmp_path, b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    assert fault is not None
    assert fault.hint == "openssl x509 -in CERTIFICATE -pubkey -noout"


def test_a_file_that_cannot_be_read_is_refused_with_the_cause(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    large = tmp_path / "large"
    large.write_bytes(ED25519 + b"\n" * (64 << 10))
    for path, message in {
        tmp_path / "none.pem": "there is no such file",
        tmp_path: "is a directory, not a file",
        loop: "cannot be read: Too many levels of symbolic links",
        pipe: "is not a regular file",
        Path("/dev/zero"): "is not a regular file",
        large: "larger than 64KiB",
    }.items():
        fault = key_fault(str(path), EDDSA)
        assert fault is not None
        assert fault.message == message


def test_a_file_without_read_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key.pem").write_bytes(ED25519)

    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    fault = key_fault(str(tmp_path / "key.pem"), EDDSA)
    assert fault == Fault("cannot be read: this user has no permission")


def test_a_key_behind_symbolic_links_is_read_as_a_config_map_mounts_it(tmp_path: Path) -> None:
    (tmp_path / "..1").mkdir()
    (tmp_path / "..1" / "key.pem").write_bytes(ED25519)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "key.pem").symlink_to("..data/key.pem")
    assert key_fault(str(tmp_path / "key.pem"), EDDSA) is None


@pytest.mark.parametrize("missing", ["jwt", "cryptography"])
def test_a_missing_extra_is_reported_with_its_install_command(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert extra_fault() is None
    monkeypatch.setitem(sys.modules, missing, None)
    assert str(extra_fault()) == (
        "needs the extra `jwt`, which is not installed (pip install 'sse-keepalive-proxy[jwt]')"
    )
