"""Translate pydantic's errors into problems in plain words, with file and line.

No other module uses pydantic's error types. No message quotes a value, which may be a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sse_keepalive_proxy.config.reading.tree import Entry, Way, find, written
from sse_keepalive_proxy.config.sections.settings import Settings
from sse_keepalive_proxy.config.types.fields import FAULT, OFF, Fault, Section, written_fields
from sse_keepalive_proxy.config.types.words import did_you_mean, one_of
from sse_keepalive_proxy.errors import Problem

__all__ = ["place", "section_in", "translate"]

_WRONG_TYPE = {
    "string_type": ("must be text", "put it in quotes"),
    "string_unicode": ("must be text", ""),
    "int_type": ("must be a whole number", "without quotes and without a unit"),
    "int_parsing_size": ("must be a smaller number", ""),
    "bool_type": ("must be true or false", "without quotes"),
    "dict_type": ("must be a mapping", "write its keys below it, indented"),
    "model_type": ("must be a mapping", "write its keys below it, indented"),
    "model_attributes_type": ("must be a mapping", "write its keys below it, indented"),
    "list_type": ("must be a list", "write it like [a, b]"),
    "tuple_type": ("must be a list", "write it like [a, b]"),
}
_NOTHING = Fault("has no value", "leave the key out for its default")


def translate(error: ValidationError, root: Entry, file: str) -> Iterator[Problem]:
    """Yield every problem of `error` with its place in `root`, without those already reported."""
    for detail in error.errors(include_url=False):
        way = _way(detail)
        entry, _ = find(root, way)
        if entry.broken:
            continue
        for fault in _faults(detail, way, entry):
            yield place(fault, root, (*way, *fault.at), file)


def _way(detail: ErrorDetails) -> Way:
    """Return the path of the value. Pydantic adds a step if the name of a section is wrong."""
    way = detail["loc"]
    return way[:-1] if way[-1:] == ("[key]",) and detail["type"] == FAULT else way


def place(fault: Fault, root: Entry, way: Way, file: str, *, warning: bool = False) -> Problem:
    """Return `fault` as a problem at `way`, or at the nearest place above it that is in the file."""
    entry, rest = find(root, way)
    # A scalar in place of a list is its own first item.
    path = entry.path if entry.text is not None or not entry.line else written(entry.path, rest)
    subject = fault.subject if not entry.expanded else "a value from the environment" if fault.subject else ""
    message = f"{subject} {fault.message}".strip()
    return Problem(message, path, fault.hint, file if entry.line else "", entry.line, warning)


def _faults(detail: ErrorDetails, way: Way, entry: Entry) -> Iterator[Fault]:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == FAULT:
        yield from context["faults"]
    elif kind == "missing":
        yield Fault("this key is required")
    elif kind == "extra_forbidden":
        yield _unknown_key(way)
    elif detail["input"] is None:
        yield _NOTHING
    elif kind in _WRONG_TYPE:
        yield Fault(*_WRONG_TYPE[kind])
    elif kind == "enum":
        yield _not_a_choice(context["expected"], way, entry)
    elif kind == "greater_than_equal":
        yield Fault(f"must be {context['ge']} or more", _ZERO_HINT if entry.value == 0 else "")
    elif kind == "too_short":
        # Pydantic counts only the valid items. Report only a list that is really empty.
        if not entry.value:
            yield Fault("must not be empty")
    else:
        yield Fault("not a valid value")


_ZERO_HINT = "zero does not mean unlimited"


def _not_a_choice(expected: str, way: Way, entry: Entry) -> Fault:
    choices = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    if _can_be_off(way):
        choices.append("off")
    near = did_you_mean(entry.text or "", choices)
    return Fault(f"must be {one_of(choices)}", near)


def _can_be_off(way: Way) -> bool:
    field = written_fields(_section_at(way[:-1])).get(str(way[-1]))
    return field is not None and OFF in field.metadata


def _unknown_key(way: Way) -> Fault:
    section = _section_at(way[:-1])
    if (instead := section.instead.get(str(way[-1]))) is not None:
        return instead
    known = list(written_fields(section))
    hint = did_you_mean(str(way[-1]), known, otherwise=f"known here: {', '.join(known)}")
    return Fault("unknown key", hint)


def _section_at(way: Way) -> type[Section]:
    """Return the section at `way`."""
    section: type[Section] = Settings
    named = False  # inside a mapping from names to sections, the next step is such a name
    for step in way:
        if isinstance(step, int) or named:
            named = False
            continue
        annotation = written_fields(section)[step].annotation
        named = get_origin(annotation) is dict
        section = section_in(annotation) or section
    return section


def section_in(annotation: Any) -> type[Section] | None:
    """Return the section class in a field's type, also inside a list or a mapping, or None."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation if issubclass(annotation, Section) else None
    if get_origin(annotation) in (dict, tuple, Union, UnionType) or hasattr(annotation, "__metadata__"):
        return next(filter(None, map(section_in, get_args(annotation))), None)
    return None
