"""What the proxy says in its own name, as clients read it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.errors import EncodingError
from sse_keepalive_proxy.stream.families import TREATMENTS, LateError, treatment
from sse_keepalive_proxy.stream.frames import Frames
from sse_keepalive_proxy.stream.late_error import late_error
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import (
    Confirm,
    ConfirmForm,
    Family,
    Keepalive,
    KeepaliveForm,
    StreamPolicy,
    Terminator,
)
from tests.support.sse_reference import Comment, Event, Parsed, parse
from tests.wire.bodies import released_by

NOW = "2025-06-27T02:45:46.782Z"
MOMENT = {"stream_id": "00c0ffee00c0ffee", "now": NOW}


def frames(
    confirm: Confirm | None = None,
    keepalive: Keepalive | None = None,
    *,
    family: Family = Family.BROWSER,
    terminator: Terminator = Terminator.AUTO,
) -> Frames:
    """The frames for a client of `family`. `keepalive` may override the `terminator` of its comments."""
    policy = StreamPolicy(confirm=confirm, keepalive=keepalive)
    return Frames(policy, "events", treatment(policy, family, terminator))


def ping(keepalive: Keepalive, *, after_id: bool = False, idle_for: float = 0.0) -> bytes:
    return frames(keepalive=keepalive).ping(after_id=after_id, idle_for=idle_for, **MOMENT)


def only_event(frame: bytes) -> Event:
    """The one event of a frame that holds nothing else."""
    (item,) = parse(frame).items
    assert isinstance(item, Event)
    return item


# Every frame there is.

lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"))
json_data = st.dictionaries(
    st.text(max_size=8) | st.sampled_from(["{now}", "type"]),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.sampled_from(["{now}", "{stream_id}", "{route}"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=4,
    ),
    max_size=3,
)
confirms = st.builds(
    Confirm, event=lines, data=json_data, padding=st.integers(0, 3000), form=st.sampled_from(ConfirmForm)
)
keepalives = st.builds(
    Keepalive,
    form=st.sampled_from(KeepaliveForm),
    text=lines,
    terminator=st.sampled_from(Terminator),
    event=lines,
    data=json_data,
    report_idle=st.booleans(),
    padding=st.integers(0, 3000),
)


@st.composite
def spoken(draw: st.DrawFn) -> bytes:
    """Any frame but the last one of a stream."""
    said = frames(
        draw(confirms),
        draw(keepalives),
        family=draw(st.sampled_from(list(TREATMENTS))),
        terminator=draw(st.sampled_from(Terminator)),
    )
    after_id, seconds = draw(st.booleans()), draw(st.floats(0, 1e6))
    return draw(
        st.sampled_from(
            [
                said.first(draw(st.sampled_from([said.ok, said.confirm(**MOMENT)]))),
                said.confirm(**MOMENT),
                said.ping(after_id=after_id, idle_for=seconds, **MOMENT),
                said.stalled(silent_for=seconds, after_id=after_id),
                said.recovered(
                    reason=draw(st.sampled_from(CloseReason)),
                    gap=seconds,
                    resumed=draw(st.booleans()),
                    after_id=after_id,
                ),
                late_error(
                    draw(st.sampled_from(LateError)),
                    CloseReason.UPSTREAM_STATUS,
                    (draw(st.integers(100, 999)), draw(st.text())),
                    draw(st.text() | st.integers()),
                ),
            ]
        )
    )


@settings(deadline=None)
@given(spoken())
@example(b":\n\n")
def test_a_frame_changes_nothing_of_what_stands_around_it(frame: bytes) -> None:
    before, behind = b"id: 7\nevent: add\ndata: 1\n\n", b"event: add\ndata: 2\n\n"
    read = parse(before + frame + behind)
    assert read.events[0] == Event("add", "1", "7")
    assert read.events[-1] == Event("add", "2", "7")
    assert len(read.events) == 2 + len(parse(frame).events)
    assert read.last_event_id == "7"
    assert read.reconnection_time is None


@settings(deadline=None)
@given(spoken())
def test_a_frame_is_whole_blocks_or_one_whole_line_of_a_comment(frame: bytes) -> None:
    if released_by(frame) != len(frame):
        assert frame.startswith(b":")
        assert frame.endswith(b"\n")
        assert all(line.startswith(b":") for line in frame.splitlines())


@settings(deadline=None)
@given(confirms, keepalives)
def test_what_is_said_arrives_as_it_was_meant(confirm: Confirm, keepalive: Keepalive) -> None:
    said = frames(confirm, replace(keepalive, padding=0))
    event = only_event(said.confirm(**MOMENT))
    assert (event.type, json.loads(event.data)) == (confirm.event or "message", filled(confirm.data))
    frame = said.ping(after_id=False, idle_for=7.4, **MOMENT)
    if keepalive.form is KeepaliveForm.EVENT:
        event = only_event(frame)
        assert (event.type, json.loads(event.data)) == (keepalive.event or "message", filled(keepalive.data))
    else:
        text = f"{keepalive.text} upstream_idle=7s" if keepalive.report_idle else keepalive.text
        assert parse(frame).items == [Comment(text)]


def filled(data: Any) -> Any:
    """JSON data with its placeholders replaced, the long way round."""
    match data:
        case dict():
            return {filled(key): filled(value) for key, value in data.items()}
        case list():
            return [filled(value) for value in data]
        case str():
            for name, value in {**MOMENT, "route": "events"}.items():
                data = data.replace(f"{{{name}}}", value)
            return data
    return data


# The confirm.


@pytest.mark.parametrize(
    ("terminator", "ok"),
    [(Terminator.AUTO, b":ok\n\n"), (Terminator.BLANK, b":ok\n\n"), (Terminator.NEWLINE, b":ok\n")],
)
def test_the_first_bytes_are_the_confirm_or_a_comment_that_ends_like_every_other(
    terminator: Terminator, ok: bytes
) -> None:
    said = frames(Confirm(), terminator=terminator)
    event = said.confirm(**MOMENT)
    assert said.first(event) == event
    assert said.first(said.ok) == said.ok == ok


@pytest.mark.parametrize("terminator", [Terminator.BLANK, Terminator.NEWLINE])
def test_a_terminator_of_the_route_is_for_the_confirm_too(terminator: Terminator) -> None:
    named = frames(Confirm(), Keepalive(terminator=terminator))
    assert named.ok == frames(Confirm(), terminator=terminator).ok


def test_the_confirm_event_is_byte_for_byte_what_the_contract_says() -> None:
    assert frames(Confirm()).confirm(**MOMENT) == (
        b"event: connection_confirmed\n"
        b'data: {"type":"connection_confirmed","stream_id":"00c0ffee00c0ffee",'
        b'"timestamp":"2025-06-27T02:45:46.782Z"}\n\n'
    )


def test_placeholders_are_filled_wherever_they_stand_and_others_are_left() -> None:
    data = {"{route}": ["{now}", {"id": "<{stream_id}>"}], "left": "{user} {}", "count": 3, "none": None}
    event = only_event(frames(Confirm(data=data)).confirm(**MOMENT))
    assert json.loads(event.data) == {
        "events": [NOW, {"id": "<00c0ffee00c0ffee>"}],
        "left": "{user} {}",
        "count": 3,
        "none": None,
    }


def test_onmessage_receives_a_confirm_without_a_name() -> None:
    assert only_event(frames(Confirm(event="")).confirm(**MOMENT)).type == "message"


@given(st.integers(3, 5000))
@example(1024)
@example(1025)
@example(1026)
@example(1027)
@example(2050)
def test_padding_is_a_comment_of_exactly_its_size(size: int) -> None:
    said = frames(Confirm(padding=size))
    for bare in (said.confirm(**MOMENT), said.ok):
        first = said.first(bare)
        padding = first.removesuffix(bare)
        assert len(padding) == len(first) - len(bare) == size
        assert released_by(padding) == size
        assert parse(padding).events == []
        assert "".join(parse(padding).comments).strip() == ""
        assert max(map(len, padding.splitlines())) <= 1025


@pytest.mark.parametrize("size", [1, 2])
def test_padding_is_never_less_than_an_empty_comment(size: int) -> None:
    said = frames(Confirm(padding=size))
    assert said.first(said.ok) == b":\n\n:ok\n\n"


@given(st.integers(2, 5000))
def test_padding_has_no_blank_line_for_a_client_to_which_that_is_an_event(size: int) -> None:
    said = frames(Confirm(padding=size), terminator=Terminator.NEWLINE)
    first = said.first(said.ok)
    assert len(first) == size + len(b":ok\n")
    assert all(line.startswith(b":") for line in first.splitlines())


def test_without_a_confirm_there_is_no_padding_either() -> None:
    assert frames(None).first(b":ok\n\n") == b""
    nothing = frames(Confirm(padding=100), family=Family.GEMINI_PYTHON)
    assert nothing.first(nothing.ok) == b""


# The claims of a client's token.

CLAIMS = {"user": {"id": 2, "fullname": 'Zoë "Z"\n\ndata: x'}, "sub": "{now}"}
WITH_CLAIMS = Confirm(
    data={"type": "hello", "user": "{claim.user.id}", "name": "I am {claim.user.fullname}", "at": "{now}"}
)


def test_the_confirm_may_say_what_the_clients_token_claims() -> None:
    event = only_event(frames(WITH_CLAIMS).confirm(claims=CLAIMS, **MOMENT))
    assert json.loads(event.data) == {
        "type": "hello",
        "user": 2,
        "name": 'I am Zoë "Z"\n\ndata: x',
        "at": NOW,
    }


@pytest.mark.parametrize("claims", [None, {}, {"user": 2}])
def test_a_client_without_the_claim_gets_null_and_no_placeholder(claims: dict[str, Any] | None) -> None:
    event = only_event(frames(WITH_CLAIMS).confirm(claims=claims, **MOMENT))
    assert json.loads(event.data) == {"type": "hello", "user": None, "name": "I am ", "at": NOW}


def test_what_a_token_claims_is_said_only_where_it_is_asked_for() -> None:
    said = frames(Confirm())
    assert said.confirm(claims=CLAIMS, **MOMENT) == said.confirm(**MOMENT)


def test_a_placeholder_in_a_claim_stays_what_it_is() -> None:
    event = only_event(frames(Confirm(data={"who": "{claim.sub} {now}"})).confirm(claims=CLAIMS, **MOMENT))
    assert json.loads(event.data) == {"who": f"{{now}} {NOW}"}


# Pings.


@pytest.mark.parametrize(
    ("terminator", "after_id", "frame"),
    [
        (Terminator.AUTO, False, b":ping\n\n"),
        (Terminator.AUTO, True, b":ping\n"),
        (Terminator.BLANK, False, b":ping\n\n"),
        (Terminator.BLANK, True, b":ping\n\n"),
        (Terminator.NEWLINE, False, b":ping\n"),
        (Terminator.NEWLINE, True, b":ping\n"),
    ],
)
def test_a_ping_ends_as_its_terminator_says(terminator: Terminator, after_id: bool, frame: bytes) -> None:
    assert ping(Keepalive(terminator=terminator), after_id=after_id) == frame
    reporting = Keepalive(terminator=terminator, report_idle=True)
    assert ping(reporting, after_id=after_id, idle_for=95.4) == frame.replace(
        b"ping", b"ping upstream_idle=95s"
    )


@pytest.mark.parametrize("after_id", [True, False])
def test_a_ping_event_is_a_whole_event_whatever_the_terminator(after_id: bool) -> None:
    frame = ping(Keepalive(form=KeepaliveForm.EVENT, terminator=Terminator.NEWLINE), after_id=after_id)
    assert frame == b'event: ping\ndata: {"type":"ping","timestamp":"%b"}\n\n' % NOW.encode()


@pytest.mark.parametrize("form", KeepaliveForm)
@pytest.mark.parametrize("terminator", [Terminator.BLANK, Terminator.NEWLINE])
@given(st.integers(1, 5000))
@example(4096)
def test_a_padded_ping_is_as_large_as_it_must_be_and_means_the_same(
    form: KeepaliveForm, terminator: Terminator, size: int
) -> None:
    plain = Keepalive(form=form, terminator=terminator)
    natural, frame = ping(plain), ping(replace(plain, padding=size))
    assert len(frame) == (len(natural) if size <= len(natural) else max(size, len(natural) + 2))
    assert parse(frame).events == parse(natural).events
    assert frame.count(b"\n\n") == natural.count(b"\n\n")
    assert "".join(parse(frame).comments).strip() == "".join(parse(natural).comments)
    assert max(map(len, frame.splitlines())) <= 1025


# The time after which a client comes back.


def with_retry(family: Family) -> Frames:
    policy = StreamPolicy(client_retry=3.0)
    return Frames(policy, "events", treatment(policy, family, Terminator.NEWLINE))


def test_the_confirm_of_a_browser_may_say_when_to_come_back() -> None:
    said = with_retry(Family.BROWSER)
    for frame in (said.confirm(**MOMENT), said.ok):
        assert parse(frame).reconnection_time == 3000
        assert released_by(frame) == len(frame)
    assert said.ok == b":ok\nretry: 3000\n\n"
    assert only_event(said.confirm(**MOMENT)) == only_event(frames(Confirm()).confirm(**MOMENT))


@pytest.mark.parametrize("family", [family for family in TREATMENTS if family is not Family.BROWSER])
def test_nobody_else_is_told_when_to_come_back(family: Family) -> None:
    said = with_retry(family)
    assert b"retry" not in said.ok + said.confirm(**MOMENT)


# What else is said.


def test_the_notice_of_a_stall_is_an_event_with_milliseconds() -> None:
    frame = frames().stalled(silent_for=61.2504, after_id=False)
    assert frame == b'event: stalled\ndata: {"type":"stalled","silent_ms":61250}\n\n'


@pytest.mark.parametrize(("after_id", "end"), [(False, b"\n\n"), (True, b"\n")])
def test_where_no_event_is_wanted_a_stall_is_a_comment_that_ends_like_a_ping(
    after_id: bool, end: bytes
) -> None:
    frame = frames(family=Family.HTTP).stalled(silent_for=61.2, after_id=after_id)
    assert frame == b":stalled silent_for=61s" + end
    newline = frames(keepalive=Keepalive(terminator=Terminator.NEWLINE), family=Family.HTTP)
    assert newline.stalled(silent_for=61.2, after_id=after_id) == b":stalled silent_for=61s\n"


@pytest.mark.parametrize("after_id", [True, False])
@pytest.mark.parametrize("resumed", ["true", "false"])
@pytest.mark.parametrize("reason", CloseReason)
def test_the_notice_of_a_gap_is_an_event_with_milliseconds(
    reason: CloseReason, resumed: str, after_id: bool
) -> None:
    said = frames(keepalive=Keepalive(terminator=Terminator.NEWLINE))
    frame = said.recovered(reason=reason, gap=1.23449, resumed=resumed == "true", after_id=after_id)
    data = f'{{"reason":"{reason}","gap_ms":1234,"resumed":{resumed}}}'
    assert frame == f"event: stream_recovered\ndata: {data}\n\n".encode()


@pytest.mark.parametrize(("after_id", "end"), [(False, b"\n\n"), (True, b"\n")])
@pytest.mark.parametrize("resumed", [True, False])
def test_where_no_event_is_wanted_a_gap_is_a_comment_that_ends_like_a_ping(
    resumed: bool, after_id: bool, end: bytes
) -> None:
    frame = frames(family=Family.HTTP).recovered(
        reason=CloseReason.UPSTREAM_RESET, gap=61.2, resumed=resumed, after_id=after_id
    )
    told = b":stream_recovered reason=upstream_reset gap_ms=61200 resumed="
    assert frame == told + (b"true" if resumed else b"false") + end


@pytest.mark.parametrize("reason", CloseReason)
def test_the_last_block_gives_the_reason_and_when_to_come_back(reason: CloseReason) -> None:
    frame = frames().closing(reason, 2345)
    assert released_by(frame) == len(frame)
    read = parse(frame)
    data = json.dumps({"type": "stream_closing", "reason": reason.value}, separators=(",", ":"))
    assert read == Parsed([Event("stream_closing", data, "")], "", 2345)


# Nothing breaks a frame.


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b", "data: 1\n\ndata: 2", "\ud83d"])
def test_what_would_break_a_frame_is_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        frames(keepalive=Keepalive(text=text))
    with pytest.raises(EncodingError):
        frames(Confirm(event=text)).confirm(**MOMENT)
    with pytest.raises(EncodingError):
        ping(Keepalive(form=KeepaliveForm.EVENT, event=text))


@pytest.mark.parametrize("text", ["a\nb", "a\r\n\r\nid: 1", "\0", '"}\n\ndata: 2', "\u2028", "\ufeff"])
def test_data_may_hold_anything_and_stays_one_event(text: str) -> None:
    for frame in (
        frames(Confirm(data={text: text})).confirm(**MOMENT),
        ping(Keepalive(form=KeepaliveForm.EVENT, data={text: text})),
    ):
        assert json.loads(only_event(frame).data) == {text: text}
