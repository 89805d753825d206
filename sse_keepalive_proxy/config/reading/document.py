"""Parse YAML into a tree of values with their lines, and fill in environment variables.

Owns everything about YAML. Scalars follow the core schema of YAML 1.2: only true and false are booleans, so
`off` stays `off`, and `1:30` stays text. A duplicate key is refused (facts.md#yaml-values). Variables are
filled in after parsing, so a value can become a number or a text, never a list or a mapping.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml

from sse_keepalive_proxy.config.reading.tree import Entry, Scalar, Way, written
from sse_keepalive_proxy.errors import ConfigurationError, Problem

__all__ = ["read_document"]

_LARGEST_FILE = 4 << 20
_MOST_VALUES = 200_000
_DEEPEST = 40

_TAG = "tag:yaml.org,2002:"
_PLAIN = "plain"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
# A configuration needs no longer numbers. Python's `int` raises at 4300 digits.
_INTEGER = re.compile(r"[-+]?[0-9]{1,100}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,100}|[0-9]{1,100}(\.[0-9]{0,100})?)([eE][-+]?[0-9]{1,5})?")
_SURROGATE = re.compile("[\ud800-\udfff]")

_VARIABLE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?:\}|:-([^}]*)(?:\}|(\Z))))?")
"""A variable, or what looks like one. A default without its `}` takes the rest of the text, so that every
character is read once.
"""
_NAMED = re.compile(r"\b(alias|anchor|handle) ['\"].*", re.DOTALL)
"""The end of a message of PyYAML that quotes a name. A password that begins with `*` looks like an alias."""


class _Loader(yaml.SafeLoader):
    """A loader that only composes nodes. The tag of a scalar shows whether it is plain or quoted."""

    yaml_implicit_resolvers = {None: [(_PLAIN, re.compile(""))]}  # noqa: RUF012 - declared so by PyYAML


def read_document(content: bytes, *, file: str, environ: Mapping[str, str]) -> tuple[Entry, list[Problem]]:
    """Return the tree of `content` and the problems of single values in it.

    Raises `ConfigurationError` if there is no tree: the content is not UTF-8, not YAML or not a mapping.
    """
    root = _compose(_decode(content, file), file)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == _PLAIN and root.value in _NULLS):
        raise _unusable(file, "the file is empty", hint="a configuration needs upstreams and routes")
    if not isinstance(root, yaml.MappingNode):
        hint = "begin with a key such as listen:"
        raise _unusable(file, "the top level must be a mapping", _line(root), hint)
    reader = _Reader(file, environ)
    return reader.entry(root, (), _line(root)), reader.problems


def _unusable(file: str, message: str, line: int = 0, hint: str = "") -> ConfigurationError:
    """Return the error for a document that cannot be used at all."""
    return ConfigurationError((Problem(message, "", hint, file, line),))


def _decode(content: bytes, file: str) -> str:
    if len(content) > _LARGEST_FILE:
        raise _unusable(file, "larger than 4MiB", hint="is this the right file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unusable(file, "not UTF-8 text", line, "save the file as UTF-8") from None
    if "\0" in text:
        raise _unusable(
            file, "contains NUL", text.count("\n", 0, text.index("\0")) + 1, "is this a text file?"
        )
    return text


def _compose(text: str, file: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = _NAMED.sub(r"\1", error.problem or error.context or "it cannot be read")
        raise _unusable(
            file, f"not valid YAML: {said}", mark.line + 1 if mark else 0, _yaml_hint(said)
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _unusable(file, "contains a control character", line, "remove it") from None
    except RecursionError:
        raise _unusable(file, "nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError):
        # In PyYAML chr() and int() fail for escapes and directives that are out of range.
        raise _unusable(file, "not valid YAML") from None


def _yaml_hint(said: str) -> str:
    if said.endswith(("alias", "anchor", "handle")):
        return "a value that begins with *, & or ! needs quotes"
    return "indent with spaces, not tabs" if "\\t" in said else ""


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1


@dataclass(slots=True)
class _Reader:
    """Convert nodes to entries and collect their problems."""

    file: str
    environ: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)
    values: int = 0

    def entry(self, node: yaml.Node, way: Way, line: int) -> Entry:
        """Return the entry of `node` at the path `way`. `line` is the line of its key or its dash."""
        self.values += 1
        if self.values > _MOST_VALUES:
            raise _unusable(
                self.file, f"more than {_MOST_VALUES} values", line, "aliases count each time they are used"
            )
        if len(way) > _DEEPEST:
            raise _unusable(self.file, "nested too deeply", line, "an alias cannot be inside its own anchor")
        path = written("", way)
        if node.tag not in {_PLAIN, f"{_TAG}str", f"{_TAG}map", f"{_TAG}seq"}:
            return self._broken(path, line, "YAML tags are not supported", "write the value without !")
        if isinstance(node, yaml.MappingNode):
            return Entry(dict(self._keys(node, way)), path, line)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path, line)
        items = [self.entry(item, (*way, index), _line(item)) for index, item in enumerate(node.value)]
        return Entry(items, path, line)

    def _keys(self, node: yaml.MappingNode, way: Way) -> Iterator[tuple[str, Entry]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or _SURROGATE.search(key_node.value):
                self._problem(written("", way), line, "a key must be text", "")
                continue
            key = key_node.value
            path = written("", (*way, key))
            if key in seen:
                self._problem(path, line, "duplicate key", f"first written on line {seen[key]}")
            elif key == "<<" and key_node.tag == _PLAIN:
                self._problem(path, line, "merge keys are not supported", "use `defaults` instead")
            else:
                seen[key] = line
                yield key, self.entry(value_node, (*way, key), line)

    def _scalar(self, node: yaml.ScalarNode, path: str, line: int) -> Entry:
        text = self._expanded(node.value, path, line)
        if text is None:
            return Entry(None, path, line, broken=True)
        if _SURROGATE.search(text):
            return self._broken(path, line, "contains half a surrogate pair, which is not valid text", "")
        # An escaped `$${` also changes the text, but it adds nothing from outside.
        expanded = any(found[1] for found in _VARIABLE.finditer(node.value))
        return Entry(_resolved(text) if node.tag == _PLAIN else text, path, line, expanded)

    def _expanded(self, text: str, path: str, line: int) -> str | None:
        """Return `text` with its variables filled in, or None if one of them has no value."""
        parts, end, usable = [], 0, True
        for found in _VARIABLE.finditer(text):
            value = self._variable(found, path, line)
            usable = usable and value is not None
            parts += [text[end : found.start()], value or ""]
            end = found.end()
        return "".join([*parts, text[end:]]) if usable else None

    def _variable(self, found: re.Match[str], path: str, line: int) -> str | None:
        name, default = found[1], found[2]
        if found[0] == "$${":
            return "${"
        if name is None or found[3] is not None:
            self._problem(path, line, "not a valid ${NAME}", "write $${ for a literal ${")
            return None
        value = self.environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            hint = f"set it, or give a default: ${{{name}:-…}}"
            self._problem(path, line, f"the environment variable {name} is not set", hint)
        return value

    def _broken(self, path: str, line: int, message: str, hint: str) -> Entry:
        self._problem(path, line, message, hint)
        return Entry(None, path, line, broken=True)

    def _problem(self, path: str, line: int, message: str, hint: str) -> None:
        self.problems.append(Problem(message, path, hint, self.file, line))


def _resolved(text: str) -> Scalar:
    """Resolve a plain scalar by the core schema of YAML 1.2, with decimal numbers only."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text
