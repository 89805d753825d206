"""The configuration in force, as it would be written, for `check --print` and `/config`.

Owns redaction of configured values: `_redacted` is the one place for it. What `to_yaml` gives is
itself a valid configuration that means the same.
"""

from __future__ import annotations

from typing import Any

import yaml

from sse_keepalive_proxy.config.sections.settings import Settings

__all__ = ["effective", "to_yaml"]

REDACTED = "(redacted)"

# Keys whose values are secret by nature. None exists yet: URLs with credentials are refused, and
# a route's `credential` only says where one is.
_SECRET_KEYS: frozenset[str] = frozenset()


def effective(settings: Settings) -> dict[str, Any]:
    """Every key with the value in force, as JSON can hold it: units again, `off` again, no secrets.

    `defaults` is left out, for it has been merged into the routes; so is the `stream` of a route
    that has none, because naming it would give it one.
    """
    written = settings.model_dump(mode="json", by_alias=True, exclude={"defaults"})
    for route in written["routes"]:
        if route["stream"] is None:
            del route["stream"]
    shown: dict[str, Any] = _redacted(written)
    return shown


def to_yaml(settings: Settings) -> str:
    """`effective` as YAML text that `load` reads back to the same."""
    return yaml.dump(
        _escaped(effective(settings)), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000
    )


class _Dumper(yaml.SafeDumper):
    """Writes the same list or mapping twice rather than an anchor and an alias."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _redacted(value: Any, key: str = "") -> Any:
    """`value` without what is secret."""
    match value:
        case dict():
            return {name: _redacted(inner, name) for name, inner in value.items()}
        case list():
            return [_redacted(inner, key) for inner in value]
        case _:
            return REDACTED if key in _SECRET_KEYS else value


def _escaped(value: Any) -> Any:
    """`value` with each `${` written so that it is not taken for a variable."""
    match value:
        case str():
            return value.replace("${", "$${")
        case dict():
            return {name: _escaped(inner) for name, inner in value.items()}
        case list():
            return [_escaped(inner) for inner in value]
        case _:
            return value
