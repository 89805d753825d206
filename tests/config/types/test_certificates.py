"""Certificate, key and CA files: every fault is said, and a context holds its peers to what it must."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sse_keepalive_proxy.config.types.certificates import (
    client_context,
    client_faults,
    outdated,
    server_context,
    server_faults,
)
from tests.support.authority import Authority, private_pem


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def server_messages(cert: Path, key: Path, ca: Path | None = None) -> list[tuple[str, str]]:
    faults = server_faults(str(cert), str(key), None if ca is None else str(ca))
    return [(name, fault.message) for name, fault in faults]


def der(path: Path) -> bytes:
    text = path.read_text()
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") :])


def test_good_files_have_no_fault(authority: Authority) -> None:
    server = authority.certificate("server", "localhost")
    assert server_messages(server, server, authority.file) == []
    assert list(client_faults(str(authority.file), str(server))) == []
    assert list(client_faults(None, None)) == []


def test_every_bad_file_is_named_by_its_key(tmp_path: Path) -> None:
    none = tmp_path / "none.pem"
    missing = "there is no such file"
    assert server_messages(none, none, none) == [
        ("cert_file", missing),
        ("key_file", missing),
        ("client_ca_file", missing),
    ]
    assert [key for key, _ in client_faults(str(none), str(none))] == ["ca_file", "client_cert"]


def test_a_file_of_the_wrong_kind_is_refused_with_its_kind(tmp_path: Path, authority: Authority) -> None:
    key, text, binary, broken, pipe = (
        tmp_path / name for name in ("key", "text", "binary", "broken", "pipe")
    )
    key.write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
    text.write_text("hello")
    binary.write_bytes(der(authority.file))
    broken.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    os.mkfifo(pipe)
    for path, as_certificate, as_key in (
        (key, "contains a private key, not a certificate", None),
        (authority.file, None, "contains a certificate and no private key"),
        (text, "contains no certificate", "contains no private key"),
        (binary, "is not PEM", "is not PEM"),
        (broken, "contains a broken certificate", "contains a certificate and no private key"),
        (pipe, "is not a regular file", "is not a regular file"),
        (tmp_path, "is a directory, not a file", "is a directory, not a file"),
    ):
        found = dict(server_messages(path, path, path))
        assert found.get("client_ca_file") == as_certificate
        assert found.get("cert_file") == as_certificate
        assert found.get("key_file") == as_key


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    one, other = authority.certificate("one", "localhost"), authority.certificate("other", "localhost")
    mismatch = "the private key does not belong to the certificate"
    assert server_messages(one, other) == [("key_file", mismatch)]
    one.write_bytes(
        private_pem(ec.generate_private_key(ec.SECP256R1())) + one.read_bytes().split(b"-----\n", 2)[2]
    )
    assert [(key, fault.message) for key, fault in client_faults(None, str(one))] == [
        ("client_cert", mismatch)
    ]


def test_an_encrypted_key_is_refused_and_no_password_is_asked_for(
    tmp_path: Path, authority: Authority
) -> None:
    server, key = authority.certificate("server", "localhost"), tmp_path / "key.pem"
    key.write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    ((name, message),) = server_messages(server, key)
    assert (name, message[:28]) == ("key_file", "the private key is encrypted")
    with pytest.raises(ssl.SSLError):
        server_context(str(server), str(key), None)


def test_a_broken_key_is_reported(tmp_path: Path, authority: Authority) -> None:
    server, key = authority.certificate("server", "localhost"), tmp_path / "key.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n")
    assert server_messages(server, key) == [("key_file", "contains no usable private key")]


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        ((-1, 1), None),
        ((-2, -1), "the certificate has expired"),
        ((1, 2), "the certificate is not valid yet"),
    ],
)
@pytest.mark.parametrize("of_server", [True, False])
def test_a_certificate_outside_its_dates_is_noticed_on_either_side(
    authority: Authority, valid: tuple[float, float], message: str | None, of_server: bool
) -> None:
    file = str(authority.certificate("it", "localhost", valid=valid))
    fault = outdated(file, file, of_server=of_server)
    assert (fault and fault.message) == message
    assert list(server_faults(file, file, None)) == []  # it can be served all the same


# Contexts.


def shaken(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost") -> ssl.SSLObject:
    """The server's end after a handshake in memory. Raises what either side says."""
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = server.wrap_bio(one, two, server_side=True)
    asking = client.wrap_bio(two, one, server_hostname=name)
    for _ in range(4):
        for end in (asking, serving):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return serving


def test_a_server_speaks_tls_1_2_and_up_and_http_1_1(authority: Authority) -> None:
    server = authority.certificate("server", "localhost")
    context, client = server_context(str(server), str(server), None), authority.client()
    client.set_alpn_protocols(["h2", "http/1.1"])
    assert shaken(context, client).selected_alpn_protocol() == "http/1.1"
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shaken(context, client).version() == "TLSv1.2"
    with pytest.warns(DeprecationWarning, match="deprecated"):
        client.minimum_version, client.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shaken(context, client)


def test_with_client_ca_file_a_client_needs_a_certificate_of_it(authority: Authority, tmp_path: Path) -> None:
    server, mine = authority.certificate("server", "localhost"), authority.certificate("client")
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other").certificate("stranger")
    context = server_context(str(server), str(server), str(authority.file))
    assert shaken(context, authority.client(mine)).getpeercert()
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shaken(context, authority.client())
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(context, authority.client(other))


def test_a_ca_file_takes_the_place_of_the_systems(authority: Authority, tmp_path: Path) -> None:
    server = authority.server("localhost")
    shaken(server, client_context(str(authority.file), None))
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(server, client_context(None, None))
    with pytest.raises(ssl.SSLCertVerificationError, match="other"):
        shaken(server, client_context(str(authority.file), None), "other.example")


def test_a_servers_own_certificate_can_be_trusted_alone(authority: Authority) -> None:
    certificate = authority.certificate("server", "localhost")
    serving = server_context(str(certificate), str(certificate), None)
    shaken(serving, client_context(str(certificate), None))
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(authority.server("localhost"), client_context(str(certificate), None))
