"""Log lines: one line each whatever a peer sends, in two formats, without credentials."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.observe import line, log
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.raw_upstream import GOT_REQUEST, LAST_CHUNK, RawUpstream, chunk, response, stream_head
from tests.support.running import on_each_loop
from tests.wire.effort import grows_no_faster_than_linear

FORMS = ["text", "json"]
SECRET = "s3cr3t"
NASTY = 'a\nb\rc\x1b[31m\x00\x85\u2028\u202e\ud800ä\u00a0"quoted" \\ k=v'

logger = logging.getLogger("sse_keepalive_proxy.test")


@contextlib.contextmanager
def configured(
    form: str = "text", level: str = "info", *, access_lines: bool = True
) -> Iterator[io.StringIO]:
    """What is written to stderr meanwhile. Logging is afterwards as it was."""
    loggers = [logging.getLogger(), logging.getLogger("sse_keepalive_proxy.access")]
    before = [(one.level, one.propagate, one.disabled, one.handlers[:]) for one in loggers]
    with contextlib.redirect_stderr(io.StringIO()) as written:
        try:
            log.configure(level, form, access=access_lines)
            yield written
        finally:
            for one, (level_before, one.propagate, one.disabled, one.handlers[:]) in zip(
                loggers, before, strict=True
            ):
                one.setLevel(level_before)


def raise_secret(secret: str = SECRET) -> None:
    try:
        int(secret)
    except ValueError as first:
        raise LookupError(f"because of {secret}") from first


# One line each.


def test_a_line_of_text_has_the_time_the_level_the_message_and_the_fields() -> None:
    with configured() as written:
        logger.warning("%d streams", 3, extra={"fields": {"route": "events", "age_s": 1.5, "client": None}})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING 3 streams  route=events age_s=1\.5 client=never\n",
        written.getvalue(),
    )


def test_a_line_of_json_has_the_same_under_keys_with_their_types() -> None:
    with configured("json") as written:
        logger.warning("%d streams", 3, extra={"fields": {"route": "events", "age_s": 1.5, "client": None}})
    line = json.loads(written.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "logger": "sse_keepalive_proxy.test",
        "message": "3 streams",
        "route": "events",
        "age_s": 1.5,
        "client": None,
    }


@pytest.mark.parametrize("form", FORMS)
@given(said=st.text(st.characters(exclude_categories=())) | st.just(NASTY))
def test_whatever_a_peer_sends_stays_one_printable_line(form: str, said: str) -> None:
    with configured(form) as written:
        logger.info("peer said %s", said, extra={"fields": {"target": said, "route": "events"}})
    line = written.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()  # so no line break of any kind, no escape, no direction mark
    if form == "json":
        read = json.loads(line)
        assert (read["message"], read["target"]) == (f"peer said {said}", said)


@given(said=st.text(st.characters(exclude_categories=())) | st.just(NASTY))
def test_a_value_of_a_text_line_cannot_pass_for_another_field(said: str) -> None:
    with configured() as written:
        logger.info("request", extra={"fields": {"target": said, "route": "events"}})
    found = re.fullmatch(
        r'\S+ INFO    request  target=([^" ]+|"(?:[^"\\]|\\.)*") route=events\n', written.getvalue()
    )
    assert found
    shown = found[1]
    assert (json.loads(shown) if shown.startswith('"') else shown) == said


# Tracebacks.


@pytest.mark.parametrize("form", FORMS)
def test_a_traceback_says_where_and_what_kind_but_not_what_the_exception_says(form: str) -> None:
    with configured(form) as written:
        try:
            raise_secret()
        except LookupError:
            logger.exception("it failed")
    line = written.getvalue()
    assert SECRET not in line
    assert "because of {secret}" in line  # the source, not the value
    assert "in raise_secret" in line
    assert re.search(r"LookupError\W*\n$", line)
    assert line.count("\n") == 1


@on_each_loop
async def test_errors_of_the_event_loop_are_logged_without_exception_texts_and_arguments() -> None:
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(log.complain)

    async def unwatched() -> None:
        raise_secret()

    try:
        with configured("json") as written:
            loop.call_soon(raise_secret, SECRET)
            task = asyncio.create_task(unwatched())
            await asyncio.wait([task])
            del task
            gc.collect()
            await asyncio.sleep(0)  # the lines of a turn leave at its end
    finally:
        loop.set_exception_handler(handler)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert len(lines) == 2
    assert all(line["message"].startswith("an error in the event loop") for line in lines)
    assert any("never retrieved" in line["message"] for line in lines)
    assert all(line["exception"].endswith("LookupError") for line in lines)
    assert SECRET not in written.getvalue()


# What is left out.


def test_below_the_level_nothing_is_written() -> None:
    with configured(level="warning") as written:
        logger.info("no")
        logging.getLogger("any.library").debug("no")
        logger.error("yes")
    assert re.fullmatch(r"\S+ ERROR   yes\n", written.getvalue())


def test_debug_is_a_level_too() -> None:
    with configured(level="debug") as written:
        logger.debug("yes")
    assert re.fullmatch(r"\S+ DEBUG   yes\n", written.getvalue())


def test_access_lines_can_be_turned_off_and_on_again() -> None:
    with configured(access_lines=False) as written:
        log.log_line("request", {})
        logger.info("ready")
        log.configure("info", "text", access=True)
        log.log_line("stream open", {})
    assert [line.split(maxsplit=2)[2] for line in written.getvalue().splitlines()] == ["ready", "stream open"]


def test_a_line_of_the_access_log_looks_like_any_other() -> None:
    fields = {"route": "events", "age_s": 1.5, "since": None}
    with configured("json") as written:
        log.log_line("stream closed", fields)
        logger.info("stream closed", extra={"fields": fields})
    first, second = map(json.loads, written.getvalue().splitlines())
    assert (first.pop("logger"), second.pop("logger")) == (
        "sse_keepalive_proxy.access",
        "sse_keepalive_proxy.test",
    )
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert all(re.fullmatch(form, each.pop("time")) for each in (first, second))
    assert first == second


def test_above_its_level_the_access_log_is_silent() -> None:
    with configured(level="warning") as written:
        log.log_line("request", {})
    assert written.getvalue() == ""


def test_a_line_of_the_access_log_is_written_once_and_reaches_no_other_handler_of_the_root() -> None:
    heard: list[logging.LogRecord] = []
    other = logging.Handler()
    other.emit = heard.append  # type: ignore[method-assign]
    with configured() as written:
        logging.getLogger().addHandler(other)
        log.log_line("stream open", {})
        logger.info("ready")
    assert [line.split(maxsplit=2)[2] for line in written.getvalue().splitlines()] == ["stream open", "ready"]
    assert [record.getMessage() for record in heard] == ["ready"]


def test_configuring_again_does_not_double_the_lines() -> None:
    with configured() as written:
        log.configure("info", "json", access=True)
        logger.info("once")
    assert json.loads(written.getvalue())["message"] == "once"


# Redaction.


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/events", "/events"),
        ("*", "*"),
        ("/events?access_token=s3cr3t", "/events?access_token=***"),
        ("/events?token=s3cr3t&chat=2&token=s3cr3t", "/events?token=***&chat=***&token=***"),
        ("/events?s3cr3t", "/events?***"),
        ("/events?a=1&s3cr3t&b=2", "/events?a=***&***&b=***"),
        ("/events?s3cr3t==", "/events?***"),  # base64 pads with what looks like a name's end
        ("/events?=s3cr3t", "/events?=***"),
        ("/events?a=b=s3cr3t", "/events?a=***"),
        ("/events?access_token%3Ds3cr3t", "/events?***"),
        ("/events?a=1?access_token=s3cr3t", "/events?a=***"),
        ("/events?a=1;access_token=s3cr3t", "/events?a=***"),
        ("/events;session=s3cr3t/more?x=1", "/events;session=***?x=***"),
        ("/events%3Faccess_token=s3cr3t&b=s3cr3t", "/events%3F***"),
        ("/events%3faccess_token%3ds3cr3t", "/events%3f***"),
        ("/events?", "/events?***"),
        ("/events?eyJhbGciOiJFZERTQSJ9=1&chat=2", "/events?***=***&chat=***"),
        ("/events?d41d8cd98f00b204e9800998ecf8427e=1", "/events?***=***"),
        ("/events?aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=1", "/events?***=***"),
        ("/events?a%3Ds3cr3t=1", "/events?***=***"),
        ("/events?s3cr3t=1&x_s3cr3t=1&AKIA7EXAMPLE=1", "/events?***=***&***=***&***=***"),
        ("/events?correcthorsebatterystaple=1", "/events?***=***"),
        ("/events?last_event_id=7&oauth2_token.b-c=1", "/events?last_event_id=***&oauth2_token.b-c=***"),
        ("/events?user:s3cr3t@host=1", "/events?***=***"),
        ("/events?X-Amz-SignedHeaders=a&id[]=1&utf8=1", "/events?X-Amz-SignedHeaders=***&id[]=***&utf8=***"),
        ("http://user:s3cr3t@host/events", "http://***@host/events"),
        ("/proxy/user:s3cr3t@a@host/events?x=1", "/***@host/events?x=***"),
        ("/proxy/http%3A%2F%2Fuser:s3cr3t%40host", "/***%40host"),
        ("/https://user:s3/cr3t@host/a", "/https://***@host/a"),
        ("/https://user:s3//cr3t@host/a", "/https://***@host/a"),
        ("/to/https://host/a/user:s3/cr3t@b/", "/to/https://***@b/"),
        ("/user:s3/cr3t://a@host", "/***@host"),
        ("//user:s3/cr3t@host/", "/***@host/"),
        ("/user%253As3cr3t%2540host/", "/***%2540host/"),
        ("/user%25253As3cr3t%252540host/", "/***%252540host/"),
        ("/cb%253Ftoken%253Ds3cr3t", "/cb%253F***"),
        ("/cb%25253fs3cr3t/a", "/cb%25253f***"),
        ("/cb/token%253Ds3/cr3t", "/cb/token%253D***"),
        ("/a;s=s3/cr3t", "/a;s=***"),
        ("/,token=s3/cr3t", "/,token=***"),
        ("/@scope/package", "/@scope/package"),
        ("//a//b/../c%20d", "//a//b/../c%20d"),
    ],
)  # fmt: skip
def test_of_a_target_the_path_is_shown_and_the_names_of_its_query(target: str, shown: str) -> None:
    assert line.redact_target(target) == shown


@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(["access_token", "a", ""]), st.sampled_from(["=", "==", "=%20", "=a?", "=a;"])
        ),
        min_size=1,
        max_size=16,  # shorter than what is read of a target
    ),
    path=st.sampled_from(["/events", "/a;k=", "/a%3Fk=", "/a;k=v/b%3Dc="]),
)
def test_no_value_of_a_query_is_ever_shown(parts: list[tuple[str, str]], path: str) -> None:
    target = f"{path}?" + "&".join(f"{name}{mark}{SECRET}" for name, mark in parts)
    assert SECRET not in line.redact_target(target)
    assert line.redact_target(target).count("&") == len(parts) - 1


def test_of_a_long_target_the_part_that_the_cut_goes_through_is_hidden() -> None:
    assert line.redact_target("/" + "a" * 511) == "/" + "a" * 511
    assert line.redact_target("/" + "a" * 512) == "/***"
    assert line.redact_target(f"/events/user:{SECRET}{'a' * 512}@host") == "/events/***"
    assert line.redact_target(f"/to/https://user:p/{SECRET}/{'a' * 512}@host") == "/to/***"
    assert line.redact_target(f"/events?a=1&{SECRET * 100}=1") == "/events?a=***&***"
    assert len(line.redact_target("/?" + "&".join(["a=1"] * 1000))) == 512


def test_of_a_long_target_only_the_shown_part_is_read() -> None:
    looked_at: list[int] = []

    class Target(str):
        __slots__ = ()

        def __getitem__(self, key: Any) -> str:
            cut = super().__getitem__(key)
            looked_at.append(len(cut))
            return cut

        def partition(self, sep: str) -> Any:
            pytest.fail("the whole of it is looked at")

    line.redact_target(Target("/?" + "&" * 30_000))
    assert looked_at == [512]


@pytest.mark.parametrize("piece", ["%25", "%", "25", "%40", "@", "=", "/", "a", "://", "%3", "/:", "a%25@"])
def test_the_work_to_redact_a_path_grows_with_its_length(piece: str) -> None:
    def work(count: int) -> None:
        for _ in range(100):
            line.redact_target("/" + piece * count)

    assert grows_no_faster_than_linear(work, 25)


# The lines of requests and streams.


def fields_of(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.message == message]


@on_each_loop
async def test_a_stream_has_a_line_when_it_opens_and_one_with_its_reason_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    steps = [GOT_REQUEST, stream_head(), go := asyncio.Event(), chunk(b": c\n\ndata: 1\n\n"), LAST_CHUNK]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, "keepalive: {interval: 50ms}\nstall: {after: 80ms}")) as proxy,
        await proxy.event_source(
            f"/events?access_token={SECRET}&chat=2", "X-Forwarded-For: 203.0.113.7"
        ) as client,
    ):
        await proxy.until(lambda: proxy.metric("upstream_stalls_total") == 1)
        await client.wait_for(b":ping\n")
        (opened,) = fields_of(caplog, "stream open")
        assert fields_of(caplog, "stream closed") == []
        go.set()
        await client.wait_response()
        await proxy.until_closed("upstream_end")
    (closed,) = fields_of(caplog, "stream closed")
    stream_id = json.loads(client.events[0].data)["stream_id"]
    assert opened == {
        "id": stream_id,
        "route": "events",
        "client": "203.0.113.7",
        "target": "/events?access_token=***&chat=***",
        "family": "browser",
    }
    assert next(iter(closed)) == "reason"
    assert closed.pop("age_s") >= 0.08
    assert closed.pop("since_upstream_byte_s") >= 0
    assert closed.pop("since_upstream_event_s") >= 0
    assert closed.pop("pings") == client.body.count(b":ping\n") > 0
    assert closed.pop("bytes") == len(client.body)
    assert closed == {
        "reason": "upstream_end",
        "id": stream_id,
        "route": "events",
        "client": "203.0.113.7",
        "family": "browser",
        "events": 1,
        "comments": 1,
        "stalls": 1,
        "reconnects": 0,
        "finished": False,
    }
    assert len(fields_of(caplog, "stream open")) == 1
    assert fields_of(caplog, "request") == []  # a stream is no plain request


@on_each_loop
async def test_a_plain_request_has_one_line_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with (
        RawUpstream([GOT_REQUEST, response("404 Not Found", b"nothing")]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.request(f"/other?key={SECRET}", EVENT_SOURCE, method="DELETE")
        await client.wait_response()
        await proxy.until(lambda: fields_of(caplog, "request"))
    (line,) = fields_of(caplog, "request")
    assert line.pop("seconds") >= 0
    assert line == {
        "route": "rest",
        "method": "DELETE",
        "target": "/other?key=***",
        "status": 404,
        "client": "127.0.0.1",
    }


def test_the_time_is_utc_to_the_millisecond() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.now_rfc3339())


# When lines are written.


@on_each_loop
async def test_the_lines_of_one_turn_of_the_loop_are_one_write() -> None:
    with configured() as written:
        writes: list[str] = []
        written.write = writes.append  # type: ignore[method-assign, assignment]
        logger.error("one")
        log.log_line("two", {})
        assert writes == []
        await asyncio.sleep(0)
        (lines,) = writes
        logger.error("three")
        await asyncio.to_thread(logger.error, "four")  # a thread has no loop: its line leaves at once
        assert [line.split()[-1] for text in (lines, *writes[1:]) for line in text.splitlines()] == [
            "one", "two", "three", "four"
        ]  # fmt: skip
