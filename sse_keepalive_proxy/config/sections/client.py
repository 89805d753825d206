"""The sections `identity` of a stream and `cors` of a route.

Owns these keys, their defaults and their documentation. `config.types.key_file` checks the key file;
`config.reading.check_route` checks keys against each other.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from sse_keepalive_proxy.config.types.fields import OFF, Section
from sse_keepalive_proxy.config.types.shapes import Algorithm, CredentialPlace, FilePath, Origin, Word
from sse_keepalive_proxy.stream import policy

__all__ = ["Algorithms", "Cors", "Identity"]

Algorithms = Annotated[tuple[Algorithm, ...], Strict(False), Field(min_length=1)]
_Verify = Annotated[policy.Verify, Strict(False)]


class Cors(Section):
    """The pages of other origins that may use the route. The proxy then answers preflights itself."""

    origins: Annotated[tuple[Origin, ...], Strict(False), Field(min_length=1)] = Field(
        description="The origins of the pages, each as a browser sends it: `https://app.example.com`, with "
        'a port if it is not the default. `"*"` allows every origin, without cookies.',
    )
    credentials: bool = Field(
        default=False,
        description="Allows browsers to send cookies and scripts to read the answer. It needs named "
        "origins; an EventSource requests it with `withCredentials`.",
    )


class Identity(Section):
    """The client's identity, from the claims of its JSON Web Token. Needs the extra `jwt`."""

    source: CredentialPlace = Field(
        default="query:access_token",
        alias="from",
        description="The place of the token, as `query:NAME` or `header:name`. It is also a place of "
        "`credential`.",
    )
    verify: _Verify = Field(
        default=policy.Verify.JWT,
        description="The proof for the claims: `jwt` checks the signature, `upstream` relies on upstream's "
        "acceptance of the request. Use `upstream` only if upstream authenticates by exactly this token.",
    )
    public_key_file: Annotated[FilePath | None, OFF] = Field(
        default=None,
        description="The public key for the signatures, as a PEM file. `verify: jwt` needs it. A relative "
        "path starts at the working directory of the proxy.",
    )
    algorithms: Algorithms = Field(
        default=("EdDSA",),
        description="The accepted signature algorithms. The key must fit each of them.",
    )
    audience: Annotated[Word | None, OFF] = Field(
        default=None,
        description="The required `aud` of a token. Off: it is not checked.",
    )
    issuer: Annotated[Word | None, OFF] = Field(
        default=None,
        description="The required `iss` of a token. Off: it is not checked.",
    )
    close_at_expiry: bool = Field(
        default=False,
        description="Ends a stream when its token expires, with reason `unauthorized`. Otherwise a stream "
        "may outlive its token, as without a proxy.",
    )

    @property
    def policy(self) -> policy.Identity:
        """The section as a frozen policy."""
        return policy.Identity(**{name: getattr(self, name) for name in type(self).model_fields})
