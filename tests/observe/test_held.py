"""The book of the streams that are held without a client."""

from __future__ import annotations

from typing import Any

from sse_keepalive_proxy.observe.held import HeldStreams


class Stream:
    route_name = "events"

    def __init__(self, book: HeldStreams) -> None:
        self.book, self.gone, self.hurried = book, False, False

    def snapshot(self, now: float) -> dict[str, Any]:
        return {"now": now}

    def drop(self) -> None:
        self.gone = True
        self.book.remove(self)

    def hurry(self) -> None:
        self.hurried = True


def filled(limit: int, count: int) -> tuple[HeldStreams, list[Stream]]:
    book = HeldStreams(limit)
    streams = [Stream(book) for _ in range(count)]
    for stream in streams:
        book.add(stream)
    return book, streams


def gone(streams: list[Stream]) -> list[bool]:
    return [stream.gone for stream in streams]


def test_above_the_limit_the_oldest_is_let_go() -> None:
    book, streams = filled(2, 3)
    assert gone(streams) == [True, False, False]
    assert list(book) == streams[1:]
    assert len(book) == 2


def test_a_stream_that_has_ended_makes_room() -> None:
    book, (first, second) = filled(2, 2)
    book.remove(second)
    book.remove(second)
    book.add(Stream(book))
    assert not first.gone


def test_a_smaller_limit_lets_the_oldest_go_and_no_limit_lets_all_of_them_go() -> None:
    book, streams = filled(4, 4)
    book.allow(3)
    assert gone(streams) == [True, False, False, False]
    book.allow(0)
    assert all(gone(streams))
    book.add(late := Stream(book))
    assert late.gone
    assert len(book) == 0


def test_at_the_end_of_a_drain_each_waits_for_no_client() -> None:
    book, streams = filled(2, 2)
    book.hurry()
    assert all(stream.hurried for stream in streams)
    assert len(book) == 2
