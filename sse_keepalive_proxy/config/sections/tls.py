"""The sections `tls` (for clients) and `upstreams.NAME.tls` (for a server).

Owns these keys, their defaults and their documentation. `config.types.certificates` checks the files and
creates the TLS contexts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from sse_keepalive_proxy.config.types.fields import OFF, Fault, Section
from sse_keepalive_proxy.config.types.shapes import FilePath, ServerName

__all__ = ["ServerTls", "UpstreamTls"]

_UNVERIFIED = Fault(
    "is not a key: a server that is not verified can be forged",
    "write its CA, or its own certificate, in ca_file; and its name in server_name if the URL has another",
)


class ServerTls(Section):
    """The TLS certificate for clients. TLS 1.2 or later, HTTP/1.1."""

    cert_file: FilePath = Field(
        description="The certificate as a PEM file: first the server's own certificate, then those of its "
        "issuers. It is read again on a reload and, with `watch`, when it changes. Open connections keep "
        "the old one.",
    )
    key_file: FilePath = Field(
        description="The private key of the certificate, as a PEM file without a password. It may be the "
        "same file as the certificate.",
    )
    client_ca_file: Annotated[FilePath | None, OFF] = Field(
        default=None,
        description="The authorities for client certificates, as a PEM file. A client without such a "
        "certificate is refused. Use it for Cloudflare's Authenticated Origin Pulls.",
    )


class UpstreamTls(Section):
    """The TLS settings for an `https://` server."""

    instead: ClassVar[Mapping[str, Fault]] = dict.fromkeys(
        ("insecure", "insecure_skip_verify", "skip_verify", "verify", "verify_mode"), _UNVERIFIED
    )

    ca_file: FilePath | None = Field(
        default=None,
        description="The trusted authorities, as a PEM file. They replace those of the system. The file "
        "may also contain the server's own certificate.",
    )
    server_name: ServerName | None = Field(
        default=None,
        description="The name that the server's certificate must have. It is also sent to the server "
        "(SNI). If left out, it is the host in `url`.",
    )
    client_cert: FilePath | None = Field(
        default=None,
        description="The certificate of the proxy and its private key, in one PEM file. It is for servers "
        "that require a client certificate.",
    )
