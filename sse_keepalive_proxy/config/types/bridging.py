"""The values of a `bridge`: servers and subjects of NATS, JMESPath, the place of a claim, a secret.

Owns their syntax. An expression is compiled only if the extra `nats` is installed. If it is not,
`config.reading.check_route` reports that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import WithJsonSchema

from sse_keepalive_proxy.config.types.fields import Fault, Text, refuse
from sse_keepalive_proxy.config.types.files import content_of
from sse_keepalive_proxy.config.types.words import did_you_mean
from sse_keepalive_proxy.errors import InvalidMessage

__all__ = [
    "ClaimPlace",
    "Example",
    "Expression",
    "NatsUrl",
    "PlainSubject",
    "Secret",
    "StreamName",
    "Subject",
    "credentials_fault",
    "example_faults",
    "nats_fault",
]

_CLAIM = r"claim:[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"
_URL = r"(nats|tls)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?"
_STREAM = r"[A-Za-z0-9_-]+"
_CREDENTIALS = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")
_SUBJECT = re.compile(r"(?!.*>.)[^\s.*>]+(\.([^\s.*>]+|\*|>))*|\*(\.([^\s.*>]+|\*|>))+")


def nats_fault() -> Fault | None:
    """Return the fault if the extra `nats` is not installed: nats-py and jmespath."""
    if find_spec("nats") is not None and find_spec("jmespath") is not None:
        return None
    return Fault("needs the extra `nats`, which is not installed", "pip install 'sse-keepalive-proxy[nats]'")


def credentials_fault(file: str) -> Fault | None:
    """Return the fault of a file with NATS credentials. nats-py would look for their token for ever."""
    content = content_of(file)
    if isinstance(content, Fault):
        return content
    if not all(part in content for part in _CREDENTIALS):
        return Fault("is not a file with NATS credentials", "`nsc generate creds` writes one")
    if find_spec("nkeys") is None:
        return Fault("needs nkeys, which is not installed", "pip install 'sse-keepalive-proxy[nats]'")
    return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise refuse(Fault("must be text", "put it in quotes"))
    return value


def _url(value: object) -> str:
    url = _text(value)
    if "@" in url:
        raise refuse(Fault("credentials in the URL are not supported", "write user and password"))
    if not re.fullmatch(_URL, url):
        raise refuse(Fault("not the URL of a NATS server", "e.g. nats://nats:4222 or tls://nats:4222"))
    return url


def _subject(value: object) -> str:
    subject = _text(value)
    if not _SUBJECT.fullmatch(subject):
        hint = "tokens between dots; * is one token, > the rest: chat.*.read, chat.>"
        raise refuse(Fault("not a subject of NATS", hint))
    return subject


def _stream(value: object) -> str:
    name = _text(value)
    if not re.fullmatch(_STREAM, name):
        raise refuse(Fault("not the name of a JetStream stream", "letters, digits, - and _, as in CHAT"))
    return name


def _plain_subject(value: object) -> str:
    subject = _subject(value)
    if set("*>") & set(subject):
        raise refuse(Fault("is published on, so it has no wildcards", "name one subject: chat.status"))
    if set("{}") & set(subject):
        raise refuse(Fault("has no placeholders", "write claims in `data`"))
    return subject


def _claim(value: object) -> str:
    place = _text(value)
    if not re.fullmatch(_CLAIM, place):
        hint = "with a colon, and dots between its names: claim:user.id"
        raise refuse(Fault("not the place of a claim", hint))
    return place


def _expression(value: object) -> str:
    expression = _text(value)
    if nats_fault() is None:
        from sse_keepalive_proxy.stream.bridge_mapping import FUNCTIONS, functions_of, problem_of

        if problem := problem_of(expression):
            raise refuse(Fault(f"not a JMESPath expression: {problem}", "https://jmespath.org"))
        for name in functions_of(expression):
            if name not in FUNCTIONS:
                raise refuse(Fault("is not a function", did_you_mean(name, FUNCTIONS), subject=name))
    return expression


def example_faults(example: Any, expressions: Mapping[tuple[str | int, ...], str]) -> Iterator[Fault]:
    """Yield the fault of each expression that cannot be evaluated for `example`. Needs the extra `nats`.

    `expressions` are at their paths from the subject.
    """
    from sse_keepalive_proxy.stream.bridge_mapping import evaluated

    for at, expression in expressions.items():
        try:
            evaluated(expression, example)
        except InvalidMessage as error:
            yield Fault(f"cannot be evaluated for the example: {error}", "https://jmespath.org", at=at)


Example = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "title": "JSON object"})]
NatsUrl = Annotated[str, Text("URL", _url, pattern=rf"^{_URL}$")]
Subject = Annotated[str, Text("subject", _subject, pattern=r"^\S+$")]
StreamName = Annotated[str, Text("name", _stream, pattern=rf"^{_STREAM}$")]
PlainSubject = Annotated[str, Text("subject", _plain_subject, pattern=r"^[^\s*>{}]+$")]
ClaimPlace = Annotated[str, Text("`claim:PATH`", _claim, pattern=rf"^{_CLAIM}$")]
Expression = Annotated[str, Text("JMESPath", _expression)]
Secret = Annotated[str, Text("secret", _text, show=lambda _: "(redacted)")]
