"""The building blocks of the model's fields: faults, `off`, and the empty value.

Owns how a validator refuses a value in plain words. It knows no files and no lines:
`config.reading.translate` adds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

__all__ = [
    "FAULT",
    "NULL_IS_DEFAULTS",
    "OFF",
    "ONE_OR_MANY",
    "Fault",
    "Section",
    "Text",
    "refuse",
    "written_fields",
]

FAULT = "fault"
"""The pydantic error type that contains a `Fault`."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a value. It does not quote the value, which may be a secret.

    `subject` is a part of the value that the message may name. `config.reading.translate` leaves it out if
    the value came from the environment. `at` is the path from the field to the subject.
    """

    message: str
    hint: str = ""
    subject: str = ""
    at: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        subject = f"{self.subject} " if self.subject else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{subject}{self.message}{hint}"


def refuse(*faults: Fault) -> PydanticCustomError:
    """Return the `ValueError` for a validator to raise. It contains `faults`."""
    said = "; ".join(map(str, faults))
    return PydanticCustomError(FAULT, "{said}", {"said": said, "faults": faults})


class Section(BaseModel):
    """A mapping of the configuration: frozen, with strict types, without unknown keys.

    `instead`: keys that users may expect here, and the faults to report for them.
    """

    instead: ClassVar[Mapping[str, Fault]] = {}

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


def written_fields(section: type[Section]) -> dict[str, FieldInfo]:
    """Return the fields of `section` by their keys in a file, in the order of the model.

    A key that is a keyword of Python, such as `from`, is an alias of its field.
    """
    return {field.alias or name: field for name, field in section.model_fields.items()}


class _Off:
    """Mark a field that can be turned off: `off` in the file, None in the model."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = handler(source)
        return core_schema.no_info_wrap_validator_function(
            _none_when_off,
            inner,
            serialization=core_schema.wrap_serializer_function_ser_schema(
                _off_when_none, schema=inner, when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [*_alternatives(handler(schema), keep_null=False), {"const": "off"}]}


def _none_when_off(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
    if value == "off":
        return None
    if value is None:
        raise refuse(Fault("has no value", "leave the key out for its default, or write off"))
    return inner(value)


def _off_when_none(value: Any, inner: core_schema.SerializerFunctionWrapHandler) -> Any:
    return "off" if value is None else inner(value)


class _NullIsDefaults:
    """Mark a section that may be empty and then has every default."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_empty_when_null, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [*_alternatives(handler(schema), keep_null=False), {"type": "null"}]}


def _empty_when_null(value: Any) -> Any:
    return {} if value is None else value


class _OneOrMany:
    """Mark a list that may be written as a single value."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_listed, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        several = _alternatives(handler(schema), keep_null=True)
        return {"anyOf": [*(one["items"] for one in several if "items" in one), *several]}


def _listed(value: Any) -> Any:
    return value if value is None or isinstance(value, list | tuple) else (value,)


def _alternatives(schema: JsonSchemaValue, *, keep_null: bool) -> list[JsonSchemaValue]:
    several = schema.get("anyOf", [schema])
    return [one for one in several if keep_null or one != {"type": "null"}]


OFF = _Off()
NULL_IS_DEFAULTS = _NullIsDefaults()
ONE_OR_MANY = _OneOrMany()


@dataclass(frozen=True, slots=True)
class Text:
    """Mark a value that a file has as text of a certain shape.

    `parse` takes the text and returns the value or raises `refuse(…)`. `show` returns the text of a value.
    `kind` is its name in the documentation, `pattern` the check in an editor, and `off_hint` the hint for
    `off` where that is not possible.
    """

    kind: str
    parse: Any
    show: Any = str
    pattern: str = ""
    off_hint: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(self.show, when_used="json"),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        shape: JsonSchemaValue = {"type": "string", "title": self.kind}
        return shape | ({"pattern": self.pattern} if self.pattern else {})

    def _validate(self, value: Any) -> Any:
        if value is None:
            raise refuse(Fault("has no value", "leave the key out for its default"))
        if value == "off" and self.off_hint:
            raise refuse(Fault("cannot be off", self.off_hint))
        return self.parse(value)
