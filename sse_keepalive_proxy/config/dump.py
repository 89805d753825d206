"""Print the effective configuration for `check --print` and `/config`.

No key has a secret value: URLs with credentials are refused, and `credential` names only places. The output
of `to_yaml` is a valid configuration with the same meaning.
"""

from __future__ import annotations

from typing import Any

import yaml

from sse_keepalive_proxy.config.sections.settings import Settings

__all__ = ["effective", "to_yaml"]


def effective(settings: Settings) -> dict[str, Any]:
    """Return every key with its effective value as JSON types: with units, with `off`.

    `defaults` is left out, because it is already merged into the routes. A route without `stream` shows
    none, because an empty section would mean every default.
    """
    written: dict[str, Any] = settings.model_dump(mode="json", by_alias=True, exclude={"defaults"})
    for route in written["routes"]:
        if route["stream"] is None:
            del route["stream"]
    return written


def to_yaml(settings: Settings) -> str:
    """Return `effective` as YAML text. `load` reads it as the same configuration."""
    return yaml.dump(
        _escaped(effective(settings)), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000
    )


class _Dumper(yaml.SafeDumper):
    """Write a repeated list or mapping twice instead of an anchor and an alias."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _escaped(value: Any) -> Any:
    """Return `value` with each `${` escaped, so that it is not read as a variable."""
    match value:
        case str():
            return value.replace("${", "$${")
        case dict():
            return {name: _escaped(inner) for name, inner in value.items()}
        case list():
            return [_escaped(inner) for inner in value]
        case _:
            return value
