"""Check the certificate, key and CA files of `tls`, and create TLS contexts from them.

Owns every TLS setting: version 1.2 or later, ALPN `http/1.1`, and a peer that is always verified. `check`
uses the faults of a file, and the serving process uses the contexts. No message quotes the content of a file.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from sse_keepalive_proxy.config.types.fields import Fault
from sse_keepalive_proxy.config.types.files import content_of

__all__ = ["client_context", "client_faults", "outdated", "server_context", "server_faults"]

_LARGEST_BUNDLE = 1 << 20
_CERTIFICATE, _PRIVATE_KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"

_MISMATCH = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"})
_WEAK = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})

_X509_V_ERR_CERT_NOT_YET_VALID, _X509_V_ERR_CERT_HAS_EXPIRED = 9, 10
"""Error codes of OpenSSL's `x509_vfy.h`."""

_OUTDATED = {
    _X509_V_ERR_CERT_NOT_YET_VALID: Fault("the certificate is not valid yet", "check the clock of this host"),
    _X509_V_ERR_CERT_HAS_EXPIRED: Fault("the certificate has expired", "renew it: its peers refuse it"),
}

Finding = tuple[str, Fault]
"""A key of the section, and the fault of its file."""


def server_faults(cert_file: str, key_file: str, client_ca_file: str | None) -> Iterator[Finding]:
    """Yield the faults of the files of a server: its certificate, its key, the CA for client certificates."""
    certificate, key = _certificate_fault(cert_file), _key_fault(key_file)
    if certificate is not None:
        yield "cert_file", certificate
    if key is not None:
        yield "key_file", key
    if certificate is None and key is None:
        yield from _pair_faults(cert_file, key_file, "cert_file", "key_file")
    if client_ca_file is not None and (authorities := _certificate_fault(client_ca_file)) is not None:
        yield "client_ca_file", authorities


def client_faults(ca_file: str | None, client_cert: str | None) -> Iterator[Finding]:
    """Yield the faults of the files of a client: the CA for its server, and its own certificate."""
    if ca_file is not None and (authorities := _certificate_fault(ca_file)) is not None:
        yield "ca_file", authorities
    if client_cert is None:
        return
    fault = _certificate_fault(client_cert, alone=False) or _key_fault(client_cert)
    if fault is not None:
        yield "client_cert", fault
    else:
        yield from _pair_faults(client_cert, client_cert, "client_cert", "client_cert")


def server_context(cert_file: str, key_file: str, client_ca_file: str | None) -> ssl.SSLContext:
    """Return the TLS context of a server. With `client_ca_file`, clients must have a certificate of this CA.

    Raises OSError (also as `ssl.SSLError`) if a file cannot be used. `server_faults` then names the file.
    """
    context = _bounded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, cert_file, key_file)
    if client_ca_file is not None:
        _trust(context, client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca_file: str | None, client_cert: str | None) -> ssl.SSLContext:
    """Return the TLS context of a client that trusts only the CAs in `ca_file` (None: those of the system).

    Raises OSError (also as `ssl.SSLError`) if a file cannot be used. `client_faults` then names the file.
    """
    context = _bounded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs()
    else:
        _trust(context, ca_file)
    if client_cert is not None:
        _load_pair(context, client_cert, client_cert)
    return context


def outdated(cert_file: str, key_file: str, *, of_server: bool) -> Fault | None:
    """Return the fault of a certificate that is not valid today, or None. The files have no other fault.

    Two contexts do a TLS handshake in memory. The peer trusts only this certificate, so it reports the same
    error about the dates as every other peer.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    for context in (server, client):
        context.verify_mode = ssl.CERT_NONE
        _load_pair(context, cert_file, key_file)
    peer = client if of_server else server
    _trust(peer, cert_file)
    peer.verify_mode = ssl.CERT_REQUIRED
    try:
        _shake_hands(server, client)
    except ssl.SSLCertVerificationError as error:
        return _OUTDATED.get(error.verify_code)
    except ssl.SSLError:
        return None  # another error, for example its purpose or its curve: real peers will report it
    return None


def _certificate_fault(path: str, *, alone: bool = True) -> Fault | None:
    """Return the fault of the certificate at `path`, or None. `alone`: without a private key."""
    content = content_of(path, largest=_LARGEST_BUNDLE)
    if isinstance(content, Fault):
        return content
    if _CERTIFICATE not in content:
        if _PRIVATE_KEY in content and alone:
            return Fault("contains a private key, not a certificate")
        if content.startswith(b"\x30"):
            return Fault("is not PEM", "openssl x509 -inform DER -in FILE -out FILE.pem")
        hint = "use a PEM file that begins with -----BEGIN CERTIFICATE-----"
        return Fault("contains no certificate", hint)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
            cadata=content.decode("ascii", "ignore")
        )
    except ssl.SSLError:
        return Fault("contains a broken certificate", "openssl x509 -in FILE -noout -text says more")
    return None


def _key_fault(path: str) -> Fault | None:
    content = content_of(path, largest=_LARGEST_BUNDLE)
    if isinstance(content, Fault):
        return content
    if _PRIVATE_KEY not in content:
        if _CERTIFICATE in content:
            return Fault("contains a certificate and no private key", "write the private key here, as PEM")
        if content.startswith(b"\x30"):
            return Fault("is not PEM", "openssl pkey -inform DER -in FILE -out FILE.pem")
        hint = "use a PEM file that begins with -----BEGIN PRIVATE KEY-----"
        return Fault("contains no private key", hint)
    if b"ENCRYPTED" in content:
        hint = "openssl pkey -in FILE -out DECRYPTED, readable only by the proxy's user"
        return Fault("the private key is encrypted, and the proxy cannot ask for its password", hint)
    return None


def _pair_faults(cert_file: str, key_file: str, cert_key: str, key_key: str) -> Iterator[Finding]:
    """Yield the fault of a certificate and a key that are valid alone but not together."""
    try:
        _load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert_file, key_file)
    except ssl.SSLError as error:
        if error.reason in _MISMATCH:
            hint = "the first certificate in the file must be the certificate of this key; its issuers follow"
            yield key_key, Fault("the private key does not belong to the certificate", hint)
        elif error.reason in _WEAK:
            yield (
                cert_key,
                Fault("the certificate is too weak for TLS", "use RSA with 2048 bits, and SHA-256"),
            )
        else:
            yield key_key, Fault("contains no usable private key", "openssl pkey -in FILE -noout says more")
    except OSError as error:
        yield key_key, Fault(f"cannot be read: {error.strerror}")


def _bounded(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _load_pair(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    context.load_cert_chain(cert_file, key_file, password="")


def _trust(context: ssl.SSLContext, file: str) -> None:
    """Trust every certificate in `file`: a root, an intermediate, or a server's own certificate."""
    context.load_verify_locations(file)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Do a TLS handshake in memory. Raises `ssl.SSLError`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
