"""Who a client is and from which pages it comes: a stream's `identity` and a route's `cors`.

Owns these keys, their defaults and their documentation. Whether a key file fits is asked in
`config.key_file`, what keys must agree on in `config.check_route`.
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
    """Which pages of other origins may use the route. The proxy then answers preflights itself."""

    origins: Annotated[tuple[Origin, ...], Strict(False), Field(min_length=1)] = Field(
        description="The origins that may, each as browsers send it: `https://app.example.com`, with a port "
        'if it has one. `"*"` lets every page in, but none with cookies.',
    )
    credentials: bool = Field(
        default=False,
        description="Lets browsers send cookies, and scripts read what came back for them. "
        "It needs origins by name; an EventSource asks for it with `withCredentials`.",
    )


class Identity(Section):
    """Who a client is, by the claims of the JSON Web Token that it brings. Needs the extra `jwt`."""

    source: CredentialPlace = Field(
        default="query:access_token",
        alias="from",
        description="Where the token is, as `query:NAME` or `header:name`. "
        "It counts as one of the places of `credential`.",
    )
    verify: _Verify = Field(
        default=policy.Verify.JWT,
        description="What makes the claims believed: `jwt` the token's signature, `upstream` that upstream "
        "has accepted the request. The latter is for where upstream authenticates by exactly this token.",
    )
    public_key_file: Annotated[FilePath | None, OFF] = Field(
        default=None,
        description="The public key that signatures are checked with, as a PEM file. "
        "`verify: jwt` needs it. A relative path counts from where the proxy was started.",
    )
    algorithms: Algorithms = Field(
        default=("EdDSA",),
        description="The signature algorithms that are accepted. The key must fit every one of them.",
    )
    audience: Annotated[Word | None, OFF] = Field(
        default=None,
        description="The `aud` that a token must have. Off, it is not looked at.",
    )
    issuer: Annotated[Word | None, OFF] = Field(
        default=None,
        description="The `iss` that a token must have. Off, it is not looked at.",
    )
    close_at_expiry: bool = Field(
        default=False,
        description="Ends a stream when its token expires, with reason `unauthorized`. "
        "Otherwise a stream outlives its token, as it does without a proxy.",
    )

    @property
    def policy(self) -> policy.Identity:
        """The promise."""
        return policy.Identity(**{name: getattr(self, name) for name in type(self).model_fields})
