"""A reference parser of event streams: WHATWG HTML 9.2.5 and 9.2.6, written to be obviously right.

One character at a time, quoting the standard. Slow, and independent of the code under test: what a
conforming client would make of the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Comment", "Event", "Parsed", "parse"]


@dataclass(frozen=True, slots=True)
class Event:
    """A dispatched event, as `EventSource` hands it to a listener."""

    type: str
    data: str
    last_event_id: str


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment line: everything after its colon."""

    text: str


@dataclass(slots=True)
class Parsed:
    """What a whole stream meant.

    `items` holds events and comments in their order; `last_event_id` is what a reconnecting client
    would send; `reconnection_time` is in milliseconds, None when the stream never set it.
    """

    items: list[Event | Comment] = field(default_factory=list)
    last_event_id: str = ""
    reconnection_time: int | None = None

    @property
    def events(self) -> list[Event]:
        """The events alone."""
        return [item for item in self.items if isinstance(item, Event)]

    @property
    def comments(self) -> list[str]:
        """The texts of the comments alone."""
        return [item.text for item in self.items if isinstance(item, Comment)]


def parse(stream: bytes) -> Parsed:
    """Parse a stream from its first byte to its end."""
    # "Streams must be decoded using the UTF-8 decode algorithm", which "strips one leading UTF-8
    # Byte Order Mark (BOM), if any".
    text = stream.decode("utf-8", errors="replace").removeprefix("\ufeff")

    client = _Client()
    line = ""
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        # "a U+000D CARRIAGE RETURN U+000A LINE FEED (CRLF) character pair, a single U+000A LINE FEED
        # (LF) character not preceded by a CR, and a single CR character not followed by an LF being
        # the only ways in which a line can end"
        if character == "\r":
            if position < len(text) and text[position] == "\n":
                position += 1
            client.process_line(line)
            line = ""
        elif character == "\n":
            client.process_line(line)
            line = ""
        else:
            line += character
    # "Once the end of the file is reached, any pending data must be discarded." A line without an end
    # is no line, a block without a blank line no event.
    return client.parsed


class _Client:
    """The buffers of the standard's algorithm."""

    def __init__(self) -> None:
        self.parsed = Parsed()
        self.data_buffer = ""
        self.event_type_buffer = ""
        self.last_event_id_buffer = ""

    def process_line(self, line: str) -> None:
        # "If the line is empty (a blank line): Dispatch the event"
        if line == "":
            self.dispatch()
        # "If the line starts with a U+003A COLON character (:): Ignore the line."
        elif line[0] == ":":
            self.parsed.items.append(Comment(line[1:]))
        # "If the line contains a U+003A COLON character (:): Collect the characters on the line before
        # the first colon, and let field be that string. Collect the characters after it, and let value
        # be that string. If value starts with a U+0020 SPACE character, remove it from value."
        elif ":" in line:
            colon = line.index(":")
            name = line[:colon]
            value = line[colon + 1 :]
            if value != "" and value[0] == " ":
                value = value[1:]
            self.process_field(name, value)
        # "Otherwise [...]: Process the field using the whole line as the field name, and the empty
        # string as the field value."
        else:
            self.process_field(line, "")

    def process_field(self, name: str, value: str) -> None:
        if name == "event":
            # "Set the event type buffer to the field value."
            self.event_type_buffer = value
        elif name == "data":
            # "Append the field value to the data buffer, then append a single U+000A LINE FEED (LF)"
            self.data_buffer += value + "\n"
        elif name == "id":
            # "If the field value does not contain U+0000 NULL, then set the last event ID buffer to
            # the field value. Otherwise, ignore the field."
            if "\0" not in value:
                self.last_event_id_buffer = value
        elif name == "retry":
            # "If the field value consists of only ASCII digits, then interpret the field value as an
            # integer in base ten [...]. Otherwise, ignore the field." No digit at all is no integer.
            digits = all(character in "0123456789" for character in value)
            self.parsed.reconnection_time = (
                int(value) if digits and value != "" else self.parsed.reconnection_time
            )
        # "Otherwise: The field is ignored."

    def dispatch(self) -> None:
        # 1. "Set the last event ID string of the event source to the value of the last event ID buffer.
        #    The buffer does not get reset."
        self.parsed.last_event_id = self.last_event_id_buffer
        # 2. "If the data buffer is an empty string, set the data buffer and the event type buffer to
        #    the empty string and return."
        if self.data_buffer == "":
            self.event_type_buffer = ""
            return
        # 3. "If the data buffer's last character is a U+000A LINE FEED (LF) character, then remove the
        #    last character from the data buffer."
        data = self.data_buffer
        if data[-1] == "\n":
            data = data[:-1]
        # 4. to 6. the event: its type is "message" unless the event type buffer says otherwise
        kind = self.event_type_buffer if self.event_type_buffer != "" else "message"
        self.parsed.items.append(Event(kind, data, self.parsed.last_event_id))
        # 7. "Set the data buffer and the event type buffer to the empty string."
        self.data_buffer = ""
        self.event_type_buffer = ""
