"""The reference of the configuration, and the JSON Schema for editors, from the model's descriptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from sse_keepalive_proxy.config.reading.translate import section_in
from sse_keepalive_proxy.config.sections.settings import Settings
from sse_keepalive_proxy.config.types.fields import OFF, Section, written_fields

__all__ = ["Key", "json_schema", "keys", "markdown", "schema_file"]

_EXAMPLE_NAME = "notify"
_BRIDGE: dict[str, Any] = {
    "servers": ["nats://localhost"],
    "tls": None,
    "subscriber": "claim:sub",
    "subjects": [{"subject": "a", "recipients": "a", "frames": [{"data": "a"}]}],
    "durable": {"stream": "A"},
}
_ROUTE: dict[str, Any] = {
    "name": "a",
    "match": {"path": "/*"},
    "upstream": _EXAMPLE_NAME,
    # Sections that are off by default have keys with defaults, too.
    "cors": {"origins": ["*"]},
    "stream": {
        "identity": None,
        "share": {"replay": None},
        "bridge": _BRIDGE,
        "leave": {"publish": {"subject": "a", "data": {"a": "{claim.a}"}}},
    },
}
_TLS = {"cert_file": "cert.pem", "key_file": "key.pem"}
_SMALLEST = {"tls": _TLS, "upstreams": {_EXAMPLE_NAME: {"url": "http://localhost"}}, "routes": [_ROUTE]}

_VARIABLE = {
    "type": "string",
    "title": "${NAME}",
    "pattern": r"\$\{",
    "description": "A value from the environment: `${NAME}`, or `${NAME:-default}`.",
}

_INTRODUCTION = """\
# Configuration

<!-- Written by `make docs` from the model. Do not edit. -->

The configuration is one YAML file. `sse-keepalive-proxy check -c FILE` reports every problem with its line.

- A duration has a unit: `250ms`, `15s`, `1.5s`, `2m`, `1h`. A size has a unit, too: `512B`, `64KiB`, `1MiB`,
  `1GiB`. A number without a unit and a zero are refused, because their meaning is not clear.
- `off` turns a concern off. An empty section has every default.
- `${NAME}` is the value of an environment variable. `${NAME:-default}` has a default for an unset or empty
  variable. Without a default, an unset variable is an error. Variables can be used in values, not in keys. A
  variable can become a number or a text, never a list or a mapping. `$${` is a literal `${`.
- Only `true` and `false` are booleans. A duplicate key, an unknown key and a YAML tag are errors.
- Flags override the environment, and the environment overrides the file. The variables are
  `SSE_KEEPALIVE_PROXY_CONFIG`, `SSE_KEEPALIVE_PROXY_UPSTREAM`, `SSE_KEEPALIVE_PROXY_LISTEN`,
  `SSE_KEEPALIVE_PROXY_ADMIN_LISTEN`, `SSE_KEEPALIVE_PROXY_LOG_LEVEL` and `SSE_KEEPALIVE_PROXY_LOG_FORMAT`.

Editors can complete and check the file with `sse_keepalive_proxy/config/schema.json`. Write
`# yaml-language-server: $schema=PATH` as the first line.
"""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the reference. `default` is YAML, or the reason in brackets why there is none."""

    name: str
    kind: str
    default: str
    description: str
    section: type[Section] | None


class _Schema(GenerateJsonSchema):
    """Give titles only to shapes such as `duration`, not to keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False


def keys(section: type[Section]) -> Iterator[Key]:
    """Yield the keys of `section` in the order of the model."""
    schema = section.model_json_schema(schema_generator=_Schema)
    sample = _samples()[section.__name__]
    for name, field in written_fields(section).items():
        inner = section_in(field.annotation)
        kind = _kind(schema["properties"][name], schema.get("$defs", {}))
        default = "(required)" if field.is_required() else _default(section, name, sample)
        yield Key(name, kind, default, field.description or "", inner)


def _default(section: type[Section], name: str, sample: dict[str, Any]) -> str:
    """Return the default of a key as YAML on one line."""
    if section is Settings and name == "defaults":
        return "{}"
    if name == "stream":
        return "(left out)"
    value = sample[name]
    if section_in(written_fields(section)[name].annotation) and value != "off":
        return "(every default)"
    if isinstance(value, list) and name == "listen" and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) and value else json.dumps(value)


def markdown() -> str:
    """Return the reference page."""
    parts = [_INTRODUCTION, _table("Top level", Settings, "")]
    parts += [_table(f"`{path}`", section, _plain_doc(section)) for path, section in _sections(Settings, "")]
    return "\n".join(parts)


def _sections(section: type[Section], path: str) -> Iterator[tuple[str, type[Section]]]:
    """Yield every section below `section` with its path, without `defaults`, which equals `stream`."""
    for key in keys(section):
        if key.section is None or (section is Settings and key.name == "defaults"):
            continue
        below = f"{path}.{key.name}" if path else key.name
        below += {"upstreams": ".NAME", "routes": "[]", "subjects": "[]", "frames": "[]"}.get(key.name, "")
        yield below, key.section
        yield from _sections(key.section, below)


def _table(title: str, section: type[Section], text: str) -> str:
    rows = [
        f"| `{key.name}` | {_cell(key.kind)} | {_default_cell(key.default)} | {_cell(key.description)} |"
        for key in keys(section)
    ]
    head = ["| key | type | default | what it does |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", *([text, ""] if text else []), *head, *rows, ""])


def _plain_doc(section: type[Section]) -> str:
    return " ".join((section.__doc__ or "").split())


def _default_cell(default: str) -> str:
    return default.strip("()") if default.startswith("(") else f"`{_cell(default)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _kind(shape: dict[str, Any], defs: dict[str, Any]) -> str:
    """Describe the shape of a value: `duration or off`."""
    match shape:
        case {"anyOf": several}:
            return " or ".join(dict.fromkeys(_kind(one, defs) for one in several))
        case {"$ref": reference}:
            return _kind(defs[reference.rsplit("/", 1)[1]], defs)
        case {"enum": words}:
            return ", ".join(f"`{word}`" for word in words)
        case {"const": word}:
            return f"`{word}`"
        case {"type": "array", "items": item}:
            return f"list of {_plural(_kind(item, defs))}"
        case {"type": "object", "additionalProperties": {}}:
            return "sections by name"
        case {"type": "object", "title": "JSON object"}:
            return "JSON object"
        case {"type": "object"}:
            return "section"
        case {"type": "boolean"}:
            return "`true`, `false`"
        case {"type": "integer"}:
            return "whole number"
        case {"type": "null"}:
            return "nothing"
        case {"title": title}:
            return str(title)
        case _:
            return "text"


def _plural(kind: str) -> str:
    return kind if kind == "text" else f"{kind}es" if kind.endswith("s") else f"{kind}s"


def schema_file() -> str:
    """Return `schema.json`."""
    return json.dumps(json_schema(), indent=2) + "\n"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration file. It allows `${NAME}` wherever the loader does."""
    schema = Settings.model_json_schema(schema_generator=_Schema)
    for name, shape in {**schema["$defs"], "Settings": schema}.items():
        _write_defaults(shape, _samples().get(name, {}))
    open_schema: dict[str, Any] = _with_variables(schema)
    open_schema["$defs"]["Variable"] = _VARIABLE
    about = {"title": "Configuration of sse-keepalive-proxy", "description": Settings.__doc__}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **open_schema, **about}


def _write_defaults(shape: dict[str, Any], sample: dict[str, Any]) -> None:
    """Add the defaults as a file would have them. A section has none, because its keys have them."""
    for name, value in shape.get("properties", {}).items():
        if value.pop("default", sample) is not sample and not isinstance(sample[name], dict):
            value["default"] = sample[name]
        if name == "data":
            value["default"] = sample[name]


def _with_variables(node: Any) -> Any:
    """Return `node` with a string that contains `${` as an alternative to every checked scalar."""
    if isinstance(node, list):
        return [_with_variables(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") in ("integer", "boolean") or "enum" in node or "pattern" in node:
        outer = {key: node[key] for key in ("default", "description") if key in node}
        inner = {key: value for key, value in node.items() if key not in outer}
        return {"anyOf": [inner, {"$ref": "#/$defs/Variable"}], **outer}
    return {key: _with_variables(value) for key, value in node.items()}


def _samples() -> dict[str, dict[str, Any]]:
    """Return the defaults of every section as a file would have them, by class name."""
    written = Settings.model_validate(_SMALLEST).model_dump(mode="json", by_alias=True)
    samples = {"Settings": written}

    def collect(section: type[Section], sample: dict[str, Any]) -> None:
        samples[section.__name__] = sample
        for name, field in written_fields(section).items():
            inner = section_in(field.annotation)
            if inner is None or name == "defaults":
                continue
            below = sample[name]
            below = below[0] if isinstance(below, list) else below.get(_EXAMPLE_NAME, below)
            collect(inner, below)
            if field.default is None and OFF in field.metadata:
                sample[name] = "off"

    collect(Settings, written)
    return samples
