"""TLS towards clients (`tls`) and towards a server (`upstreams.NAME.tls`).

Owns these keys, their defaults and their documentation. What is in the files, and the contexts made of them,
is the business of `config.types.certificates`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from sse_keepalive_proxy.config.types.fields import OFF, Fault, Section
from sse_keepalive_proxy.config.types.shapes import FilePath, ServerName

__all__ = ["ServerTls", "UpstreamTls"]

_UNVERIFIED = Fault(
    "is no key: a server that is not verified can be anybody",
    "name its CA, or its own certificate, in ca_file; and its name in server_name where the URL has another",
)


class ServerTls(Section):
    """The certificate that clients see. TLS 1.2 and up, HTTP/1.1."""

    cert_file: FilePath = Field(
        description="The certificate, as a PEM file: the server's own first, then those of its issuers. "
        "It is read again on a reload and, with `watch`, when it changes; open connections keep theirs.",
    )
    key_file: FilePath = Field(
        description="The private key of the certificate, as a PEM file without a password. "
        "It may be the same file.",
    )
    client_ca_file: Annotated[FilePath | None, OFF] = Field(
        default=None,
        description="The authorities that sign the certificates of clients, as a PEM file. "
        "A client without such a certificate is refused, as Cloudflare's Authenticated Origin Pulls need it.",
    )


class UpstreamTls(Section):
    """How an `https://` server is verified, and what it sees of the proxy."""

    instead: ClassVar[Mapping[str, Fault]] = dict.fromkeys(
        ("insecure", "insecure_skip_verify", "skip_verify", "verify", "verify_mode"), _UNVERIFIED
    )

    ca_file: FilePath | None = Field(
        default=None,
        description="The authorities that are trusted in place of the system's, as a PEM file. "
        "A server's own certificate in it is trusted too.",
    )
    server_name: ServerName | None = Field(
        default=None,
        description="The name that the server's certificate must have, and that is sent to it (SNI). "
        "Left out, it is the host in `url`.",
    )
    client_cert: FilePath | None = Field(
        default=None,
        description="The certificate that the proxy presents, and its private key, in one PEM file. "
        "It is for servers that ask for one.",
    )
