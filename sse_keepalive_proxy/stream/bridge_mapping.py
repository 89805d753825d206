"""Read the messages of NATS and the events of upstream by the expressions of `bridge.subjects`.

The expressions are JMESPath (https://jmespath.org) and are compiled once. They have four functions more:
`iso8601(seconds)`, `integer(text)`, `members(audience)` and `peers(member)`. Needs the extra `nats`. Whatever
a message contains, it is read or ignored, or `InvalidMessage` is raised.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import jmespath
import jmespath.parser
from jmespath import functions
from jmespath.visitor import TreeInterpreter

from sse_keepalive_proxy.errors import EncodingError, InvalidMessage
from sse_keepalive_proxy.stream.audiences import Audiences
from sse_keepalive_proxy.stream.bridging import Key, Message
from sse_keepalive_proxy.stream.policy import BridgeSubject
from sse_keepalive_proxy.wire import encode
from sse_keepalive_proxy.wire.block import parse

__all__ = ["FUNCTIONS", "Mapping", "evaluated", "functions_of", "identifier", "problem_of"]


_ANY = ["string", "number", "boolean", "array", "object", "null"]


class _Functions(functions.Functions):
    """The functions of JMESPath, and four more. What cannot be converted is null, and null has no members."""

    def __init__(self, audiences: Audiences) -> None:
        self._audiences = audiences

    @functions.signature({"types": ["number", "null"]})
    def _func_iso8601(self, seconds: float | None) -> str | None:
        """Convert Unix seconds to RFC 3339 in UTC."""
        if seconds is None:
            return None
        try:
            moment = datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError):
            return None
        return moment.isoformat().replace("+00:00", "Z")

    @functions.signature({"types": ["string", "number", "null"]})
    def _func_integer(self, text: str | float | None) -> int | None:
        """Convert decimal digits to a number."""
        if text is None:
            return None
        try:
            return int(text)
        except (ValueError, OverflowError):
            return None

    @functions.signature({"types": _ANY, "variadic": True})
    def _func_members(self, audience: Any, *others: Any) -> list[str]:
        """Return the members of an audience but `others`."""
        name = identifier(audience)
        found = frozenset() if name is None else self._audiences.members(name)
        return sorted(found.difference(filter(None, map(identifier, others))))

    @functions.signature({"types": _ANY})
    def _func_peers(self, member: Any) -> list[str]:
        """Return all who are in an audience with `member`."""
        name = identifier(member)
        return [] if name is None else sorted(self._audiences.peers(name))


FUNCTIONS = frozenset(_Functions.FUNCTION_TABLE)
"""The names of all functions that an expression may call."""

_UNREADABLE = (
    jmespath.exceptions.JMESPathError,
    ArithmeticError,
    AttributeError,  # JMESPath meets a value of another type than it expects
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def _compiled(expression: str) -> jmespath.parser.ParsedResult:
    """Compile `expression`. A literal between backticks that is no JSON is a string, as in `new_message`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return jmespath.compile(expression)


def _interpreter(audiences: Audiences) -> TreeInterpreter:
    """Return what evaluates expressions. `search` of an expression would make another one each time, and each
    is a cycle that only the garbage collector frees.
    """
    return TreeInterpreter(jmespath.Options(custom_functions=_Functions(audiences)))


def problem_of(expression: str) -> str | None:
    """Return what is wrong with `expression`, or None."""
    try:
        _compiled(expression)
    except jmespath.exceptions.JMESPathError as error:
        return str(error).partition("\n")[0]
    except RecursionError:
        return "it is nested too deeply"
    except ValueError:
        return "it has a number that is too long"
    return None


def functions_of(expression: str) -> list[str]:
    """Return the names of the functions that `expression` calls."""
    found: list[str] = []
    nodes: list[Any] = [_compiled(expression).parsed]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):  # the children of a slice are numbers
            nodes += node["children"]
            if node["type"] == "function_expression":
                found.append(node["value"])
    return found


def evaluated(expression: str, value: Any) -> Any:
    """Return the result of `expression` for `value`. Raises `InvalidMessage`."""
    try:
        return _Expression(expression, _interpreter(Audiences()))(value)
    except _UNREADABLE as error:
        raise InvalidMessage(str(error).partition("\n")[0]) from error


def identifier(value: Any) -> str | None:
    """Return a value as a text that can be compared: a number equals the same number as text. None: the value
    is null, or a list that contains null, and equals nothing.
    """
    if value is None or (isinstance(value, list) and None in value):
        return None
    try:
        if type(value) is int:  # there may be thousands, and JSON writes them like this
            return str(value)
        return value if isinstance(value, str) else encode.json_line(value)
    except (ValueError, RecursionError):
        return None


def _decoded(data: bytes) -> Any:
    return json.loads(data.decode("utf-8"), parse_constant=_no_number)


def _no_number(_: str) -> NoReturn:
    """Reject NaN and infinities, which Python accepts and JSON does not contain (RFC 8259 6)."""
    raise ValueError


class _Expression:
    """One compiled expression."""

    __slots__ = ("_interpreter", "_tree")

    def __init__(self, text: str, interpreter: TreeInterpreter) -> None:
        self._tree, self._interpreter = _compiled(text).parsed, interpreter

    def __call__(self, value: Any) -> Any:
        return self._interpreter.visit(self._tree, value)


class _Subject:
    """The compiled expressions of the subject at `place` in the configuration."""

    __slots__ = (
        "_audiences", "_frames", "_keys", "_learn", "_place", "_recipients", "_upstream_keys", "_when",
    )  # fmt: skip

    def __init__(self, place: int, subject: BridgeSubject, audiences: Audiences) -> None:
        interpreter = _interpreter(audiences)
        self._place, self._audiences = place, audiences
        self._when = None if subject.when is None else _Expression(subject.when, interpreter)
        self._recipients = _Expression(subject.recipients, interpreter)
        self._learn = None if subject.learn is None else _Expression(subject.learn, interpreter)
        self._keys = [_Expression(key, interpreter) for key in subject.keys]
        self._upstream_keys = [_Expression(key, interpreter) for key in subject.upstream_keys]
        self._frames = [(frame.event, _Expression(frame.data, interpreter)) for frame in subject.frames]

    def read(self, value: Any, position: int, now: float) -> Message | None:
        """Return the message in `value`, or None if it does not concern this subject."""
        if self._when is not None and self._when(value) is None:
            return None
        recipients = self._recipients(value)
        if recipients is None:
            return None
        if not isinstance(recipients, list):
            recipients = [recipients]
        known = frozenset(found for each in recipients if (found := identifier(each)) is not None)
        if self._learn is not None and (audience := identifier(self._learn(value))) is not None:
            self._audiences.learn(audience, known)
        frames = [
            encode.event(name, encode.json_line(data))
            for name, expression in self._frames
            if (data := expression(value)) is not None
        ]
        keys = self._named(self._keys, value)
        return Message(known, keys, b"".join(frames), len(frames), position, now)

    def upstream_keys(self, value: Any) -> tuple[Key, ...]:
        """Return the keys of `value`, the JSON of an event of upstream."""
        return self._named(self._upstream_keys, value)

    def _named(self, expressions: Sequence[_Expression], value: Any) -> tuple[Key, ...]:
        found = []
        for nth, expression in enumerate(expressions):
            try:
                text = identifier(expression(value))
            except _UNREADABLE:  # an expression need not fit every message, and every event of upstream
                continue
            if text is not None:
                found.append((self._place, nth, text))
        return tuple(found)


class Mapping:
    """The expressions of a route's `subjects`. `forgot` as for `Audiences`."""

    __slots__ = ("_subjects",)

    def __init__(self, subjects: Sequence[BridgeSubject], forgot: Callable[[], None] = lambda: None) -> None:
        audiences = Audiences(forgot=forgot)
        self._subjects = [_Subject(place, subject, audiences) for place, subject in enumerate(subjects)]

    def read(self, place: int, payload: bytes, position: int = 0, now: float = 0.0) -> Message | None:
        """Return the message in `payload`, which came on the subject at `place`. None: it is to be ignored.
        `position`, and the time `now`: see `Message`.

        Raises `InvalidMessage` if it is not JSON, or an expression cannot be evaluated.
        """
        try:
            return self._subjects[place].read(_decoded(payload), position, now)
        except EncodingError as error:
            raise InvalidMessage("a frame cannot be encoded") from error
        except jmespath.exceptions.JMESPathError as error:
            raise InvalidMessage("an expression cannot be evaluated") from error
        except _UNREADABLE as error:
            raise InvalidMessage("it is not JSON, or not what the expressions expect") from error

    def upstream_keys(self, block: bytes) -> tuple[Key, ...]:
        """Return the keys of one block of upstream, none if it is no event with JSON."""
        data = parse(block).data
        if data is None or data.lstrip()[:1] not in (b"{", b"["):
            return ()
        try:
            value = _decoded(data)
        except (ValueError, RecursionError):
            return ()
        return tuple(key for subject in self._subjects for key in subject.upstream_keys(value))
