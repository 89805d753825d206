"""A certificate authority of the test's own, and certificates that it has signed.

    authority = Authority(tmp_path)
    server = authority.certificate("server", "localhost", "127.0.0.1")
    context = authority.client()  # trusts the authority, and it alone

A file holds the private key and then the certificate, so that it serves as both.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "private_pem"]

_DAY = datetime.timedelta(days=1)


def private_pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """`key` as PEM, encrypted where there is a password."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


class Authority:
    """An authority whose own certificate is `file`, in `folder`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder, self._name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._signed(self._key, self._name, [], ca=True, valid=(-1, 1)))

    def certificate(self, name: str, *names: str, valid: tuple[float, float] = (-1, 1)) -> Path:
        """A new certificate and its key in the file `name`.pem, for host names and addresses; `valid` are the
        days from now on which it begins and ends.
        """
        key, path = ec.generate_private_key(ec.SECP256R1()), self._folder / f"{name}.pem"
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        path.write_bytes(private_pem(key) + self._signed(key, subject, list(names), ca=False, valid=valid))
        return path

    def server(self, *names: str) -> ssl.SSLContext:
        """The context of a server that presents a new certificate for `names`."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate("a-server", *names))
        return context

    def client(self, certificate: Path | None = None) -> ssl.SSLContext:
        """The context of a client that trusts this authority alone, and presents `certificate`."""
        context = ssl.create_default_context(cafile=str(self.file))
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context

    def _signed(
        self,
        key: ec.EllipticCurvePrivateKey,
        subject: x509.Name,
        names: list[str],
        *,
        ca: bool,
        valid: tuple[float, float],
    ) -> bytes:
        now, number = datetime.datetime.now(datetime.UTC), x509.random_serial_number()
        since, until = (now + days * _DAY for days in valid)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), number, since, until)
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        # What RFC 5280 asks for besides, and Python from 3.13 on.
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(signer, critical=False)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        if ca:
            others = (
                "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
                "crl_sign encipher_only decipher_only"
            )
            usage = x509.KeyUsage(key_cert_sign=True, **dict.fromkeys(others.split(), False))
            builder = builder.add_extension(usage, critical=True)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(list(map(_name, names))), critical=False
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
