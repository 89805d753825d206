"""The reference parser against the examples and rules of WHATWG HTML 9.2."""

import pytest

from tests.support.sse_reference import Comment, Event, parse


def events(stream: bytes) -> list[tuple[str, str, str]]:
    return [(event.type, event.data, event.last_event_id) for event in parse(stream).events]


def test_the_standards_first_example_is_three_messages() -> None:
    stream = (
        b"data: This is the first message.\n\ndata: This is the second message, it\ndata: has two lines.\n\n"
    )
    stream += b"data: This is the third message.\n\n"
    assert [event.data for event in parse(stream).events] == [
        "This is the first message.",
        "This is the second message, it\nhas two lines.",
        "This is the third message.",
    ]


def test_event_names_become_types() -> None:
    stream = b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n"
    assert events(stream) == [("add", "73857293", ""), ("remove", "2153", "")]


def test_the_standards_stock_example_joins_data_lines() -> None:
    assert events(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [("message", "YHOO\n+2\n10", "")]


def test_the_standards_four_block_example_has_a_comment_an_id_and_a_reset_of_it() -> None:
    stream = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"
    parsed = parse(stream)
    assert parsed.items == [
        Comment(" test stream"),
        Event("message", "first event", "1"),
        Event("message", "second event", ""),
        Event("message", " third event", ""),
    ]


def test_the_standards_empty_data_example_gives_an_empty_and_a_newline_event_and_drops_the_last() -> None:
    assert events(b"data\n\ndata\ndata\n\ndata:") == [("message", "", ""), ("message", "\n", "")]


def test_one_space_after_the_colon_is_taken_off_and_no_more() -> None:
    assert events(b"data:test\n\ndata: test\n\ndata:  test\n\n") == [
        ("message", "test", ""),
        ("message", "test", ""),
        ("message", " test", ""),
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_every_line_ending_ends_a_line(end: bytes) -> None:
    assert events(b"event: a" + end + b"data: 1" + end + end) == [("a", "1", "")]


def test_line_endings_may_be_mixed() -> None:
    assert events(b"data: 1\r\ndata: 2\rdata: 3\n\r\ndata: 4\n\r") == [
        ("message", "1\n2\n3", ""),
        ("message", "4", ""),
    ]


def test_a_trailing_cr_ends_its_line() -> None:
    assert events(b"data: 1\r\r") == [("message", "1", "")]


def test_only_one_byte_order_mark_at_the_very_start_is_stripped() -> None:
    assert events(b"\xef\xbb\xbfdata: 1\n\n") == [("message", "1", "")]
    assert events(b"\xef\xbb\xbf\xef\xbb\xbfdata: 1\n\n") == []
    assert events(b":ok\n\n\xef\xbb\xbfdata: 1\n\n") == []


def test_unicode_line_separators_are_no_line_ends() -> None:
    assert events("data: a\u2028b\u2029c\x85d\x0be\n\n".encode()) == [
        ("message", "a\u2028b\u2029c\x85d\x0be", "")
    ]


def test_an_unfinished_last_event_is_discarded_and_does_not_commit_its_id() -> None:
    parsed = parse(b"id: 1\ndata: a\n\nid: 2\ndata: b\n")
    assert [event.data for event in parsed.events] == ["a"]
    assert parsed.last_event_id == "1"


def test_a_line_without_an_end_is_not_even_a_comment() -> None:
    assert parse(b": whole\n: cut").comments == [" whole"]


def test_a_blank_line_without_data_resets_the_type_and_commits_the_id() -> None:
    parsed = parse(b"event: lost\nid: 7\n\ndata: x\n\n")
    assert parsed.events == [Event("message", "x", "7")]
    assert parse(b"id: 7\n\n").last_event_id == "7"
    assert parse(b"id: 7\n\n").events == []


def test_an_id_with_nul_is_ignored() -> None:
    assert events(b"id: 1\ndata: a\n\nid: 2\x003\ndata: b\n\n") == [
        ("message", "a", "1"),
        ("message", "b", "1"),
    ]


def test_ids_stay_until_they_are_changed() -> None:
    assert events(b"id: 1\ndata: a\n\ndata: b\n\nid:\ndata: c\n\n") == [
        ("message", "a", "1"),
        ("message", "b", "1"),
        ("message", "c", ""),
    ]


@pytest.mark.parametrize(
    ("value", "time"),
    [("3000", 3000), ("0", 0), ("3s", None), ("-1", None), ("1.5", None), ("", None), ("\u0663", None)],
)
def test_retry_takes_ascii_digits_only(value: str, time: int | None) -> None:
    assert parse(f"retry: {value}\n\n".encode()).reconnection_time == time


def test_retry_takes_effect_without_a_blank_line_and_survives_rubbish() -> None:
    assert parse(b"retry: 100\nretry: x\n").reconnection_time == 100


def test_unknown_fields_and_fields_in_another_case_are_ignored() -> None:
    assert events(b"Data: a\nfoo: b\n data: c\ndata: d\n\n") == [("message", "d", "")]


def test_comments_keep_everything_after_the_colon_and_break_no_event() -> None:
    parsed = parse(b"data: a\n:ping\n: two\ndata: b\n\n:\n")
    assert parsed.comments == ["ping", " two", ""]
    assert [event.data for event in parsed.events] == ["a\nb"]


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert events(b"data: \xff\n\n") == [("message", "\ufffd", "")]


def test_the_generic_frames_of_notify_server_are_named_events() -> None:
    assert events(b'data: {"type":"heartbeat"}\nevent: Generic\n\n') == [
        ("Generic", '{"type":"heartbeat"}', "")
    ]
