"""Which family a request is of, and what each family gets. The headers are those of the real libraries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sse_keepalive_proxy.stream.families import (
    TREATMENTS,
    LateError,
    accepts_streams,
    is_library,
    recognise,
    takes_streams,
    terminator_for,
    treated,
    treatment,
)
from sse_keepalive_proxy.stream.policy import (
    Confirm,
    ConfirmForm,
    EarlyCommit,
    Family,
    Keepalive,
    KeepaliveForm,
    Reconnect,
    ReconnectWhen,
    StreamPolicy,
    Terminator,
)
from tests.wire.effort import grows_no_faster_than_linear

Named = dict[bytes, list[bytes]]


def named(text: str) -> Named:
    """The fields of a request, one on each line of `text`, as `http.request` keeps them."""
    found: Named = {}
    for line in text.strip().splitlines():
        name, _, value = line.strip().partition(": ")
        found.setdefault(name.lower().encode(), []).append(value.encode())
    return found


STREAM = "Accept: text/event-stream"
GETS = {
    "chromium": (
        Family.BROWSER,
        f"{STREAM}\nCache-Control: no-cache\nPragma: no-cache\nSec-Fetch-Mode: cors",
    ),
    "npm eventsource 1": (Family.BROWSER, f"{STREAM}\nCache-Control: no-cache"),
    "sseclient": (Family.BROWSER, f"{STREAM}\nCache-Control: no-cache\nUser-Agent: python-requests/2.32"),
    "httpx-sse": (Family.HTTP, f"{STREAM}\nCache-Control: no-store\nUser-Agent: python-httpx/0.28"),
    "sseclient-py": (Family.HTTP, f"{STREAM}\nUser-Agent: python-requests/2.32"),
    "fetch-event-source in a browser": (Family.HTTP, f"{STREAM}\nSec-Fetch-Site: same-origin"),
    "htmx 4": (
        Family.HTTP,
        "Accept: text/html, text/event-stream\nCache-Control: no-cache\nHX-Request: true",
    ),
    "curl": (Family.HTTP, "Accept: */*\nUser-Agent: curl/8.5.0"),
    "no Accept at all": (Family.HTTP, "User-Agent: x"),
    "mcp for TypeScript": (Family.MCP, f"{STREAM}\nMcp-Session-Id: 1\nMcp-Protocol-Version: 2025-06-18"),
    "mcp for Python": (
        Family.MCP,
        "Accept: application/json, text/event-stream\nCache-Control: no-store\nMcp-Session-Id: 1",
    ),
    "an SDK that lists": (Family.OPENAI, "Accept: application/json\nX-Stainless-Lang: js"),
}
POSTS = {
    "mcp initialize": (Family.MCP, "Accept: application/json, text/event-stream"),
    "mcp for Rust": (Family.MCP, "Accept: text/event-stream, application/json"),
    "openai-python": (Family.OPENAI, "Accept: application/json\nX-Stainless-Lang: python"),
    "a reader by hand": (Family.OPENAI, "Accept: */*\nUser-Agent: node"),
    "mistralai": (Family.OPENAI, f"{STREAM}\nUser-Agent: mistral-client-python/1.9"),
    "fetch-event-source": (Family.OPENAI, f"{STREAM}\nCache-Control: no-cache"),
    "anthropic-python": (
        Family.ANTHROPIC,
        "Accept: application/json\nAnthropic-Version: 2023-06-01\nX-Stainless-Lang: python",
    ),
    "google-genai for Python": (
        Family.GEMINI_PYTHON,
        "Accept: */*\nx-goog-api-client: google-genai-sdk/3.6.1 gl-python/3.11.7",
    ),
    "google-genai for JavaScript": (
        Family.GEMINI,
        "Accept: */*\nx-goog-api-client: google-genai-sdk/2.32.0 gl-node/v22.23.3",
    ),
    "google-genai for JavaScript that accepts comments first": (
        Family.GEMINI,
        "x-goog-api-client: google-genai-sdk/1.32.0 gl-node/v22.23.3",
    ),
    "google-genai for JavaScript that fails on comments": (
        Family.GEMINI_PYTHON,
        "x-goog-api-client: google-genai-sdk/1.31.0 gl-node/v22.23.3",
    ),
    "google-genai for Go": (
        Family.GEMINI_PYTHON,
        "x-goog-api-client: google-genai-sdk/1.77.0 gl-go/go1.26.8",
    ),
    "generative-ai for JavaScript": (Family.GEMINI_PYTHON, "x-goog-api-client: genai-js/0.24.1"),
}


@pytest.mark.parametrize(("family", "fields"), GETS.values(), ids=GETS)
def test_the_family_of_a_get(family: Family, fields: str) -> None:
    assert recognise("GET", has_body=False, named=named(fields)) is family


@pytest.mark.parametrize(("family", "fields"), POSTS.values(), ids=POSTS)
def test_the_family_of_a_request_with_a_body(family: Family, fields: str) -> None:
    assert recognise("POST", has_body=True, named=named(fields)) is family


@pytest.mark.parametrize("family", TREATMENTS)
@pytest.mark.parametrize("when", ReconnectWhen)
def test_a_policy_is_treated_once_for_each_family(family: Family, when: ReconnectWhen) -> None:
    policy = StreamPolicy(early_commit=EarlyCommit(1.0), reconnect=Reconnect(when))
    gets = treatment(policy, family, Terminator.AUTO)
    made = treated(policy, gets)
    assert (made.keepalive is None) == (family is Family.GEMINI_PYTHON)
    assert (made.early_commit is None) == (family is Family.MCP)
    always = when is ReconnectWhen.ALWAYS
    if family is Family.BROWSER:
        assert made.reconnect == policy.reconnect
    elif always or family is Family.MCP:
        assert made.reconnect == Reconnect(when, first_within=None, after_end=always)
    else:
        assert made.reconnect is None


@pytest.mark.parametrize("family", TREATMENTS)
def test_a_route_overrides_single_frames_of_every_family(family: Family) -> None:
    event = StreamPolicy(
        confirm=Confirm(ConfirmForm.EVENT),
        keepalive=Keepalive(form=KeepaliveForm.EVENT, terminator=Terminator.BLANK),
    )
    gets = treatment(event, family, Terminator.NEWLINE)
    assert (gets.confirm, gets.notices, gets.terminator) == (
        ConfirmForm.EVENT,
        ConfirmForm.EVENT,
        Terminator.BLANK,
    )
    assert treated(event, gets).keepalive == event.keepalive
    silent = treatment(StreamPolicy(confirm=None), family, Terminator.NEWLINE)
    assert silent == replace(TREATMENTS[family], confirm=None, terminator=Terminator.NEWLINE)


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_only_a_get_is_of_a_browsers_event_source(method: str) -> None:
    fields = named(f"{STREAM}\nCache-Control: no-cache")
    assert recognise(method, has_body=False, named=fields) is Family.HTTP


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream, application/json, text/plain"])
def test_mcp_without_its_own_fields_accepts_exactly_both_types(accept: str) -> None:
    assert recognise("POST", has_body=True, named=named(f"Accept: {accept}")) is Family.OPENAI


def test_both_types_may_be_written_in_any_shape_that_means_them() -> None:
    fields = named("Accept: Text/Event-Stream;q=1\nAccept: application/json ;q=0.9")
    assert recognise("POST", has_body=True, named=fields) is Family.MCP


@pytest.mark.parametrize(
    ("agent", "library"),
    [
        ("python-requests/2.32", True),
        ("python-urllib3/2.8.0", True),
        ("Python/3.11 aiohttp/3.14.5", True),
        ("node", True),
        ("Go-http-client/1.1", True),
        ("okhttp/4.12.0", True),
        ("Java-http-client/21.0.2", True),
        ("Java/17.0.9", True),
        ("Ruby", True),
        ("Dart/3.5 (dart:io)", True),
        ("curl/8.5.0", False),
        ("", False),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", False),
        ("undici", False),
    ],
)
def test_who_sends_what_an_event_source_sends_but_names_a_library_gets_comments(
    agent: str, library: bool
) -> None:
    fields = named(f"{STREAM}\nCache-Control: no-cache" + (f"\nUser-Agent: {agent}" if agent else ""))
    assert recognise("GET", has_body=False, named=fields) is Family.BROWSER
    assert is_library(Family.BROWSER, fields) is library
    gets = treatment(StreamPolicy(), Family.BROWSER, Terminator.NEWLINE, library=library)
    form = ConfirmForm.COMMENT if library else ConfirmForm.EVENT
    assert (gets.confirm, gets.notices, gets.comes_back) == (form, form, True)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ("X-Stainless-Lang: js", LateError.SDK_ERROR),
        ("User-Agent: python-requests/2.32.5", LateError.API_ERROR),
        ("", LateError.API_ERROR),
    ],
)
@pytest.mark.parametrize("family", [Family.OPENAI, Family.ANTHROPIC])
def test_an_sdk_of_openai_or_anthropic_gets_a_late_error_that_its_old_versions_read(
    family: Family, fields: str, error: LateError
) -> None:
    library = is_library(family, named(fields))
    assert treatment(StreamPolicy(), family, Terminator.AUTO, library=library).error is error


def test_a_route_may_name_the_event_for_libraries_too() -> None:
    policy = StreamPolicy(confirm=Confirm(form=ConfirmForm.EVENT))
    gets = treatment(policy, Family.BROWSER, Terminator.NEWLINE, library=True)
    assert (gets.confirm, gets.notices) == (ConfirmForm.EVENT, ConfirmForm.EVENT)


def test_every_family_has_a_treatment() -> None:
    assert set(TREATMENTS) == set(Family) - {Family.AUTO}


def test_only_a_browser_gets_events_of_ours_and_is_reopened_after_a_clean_end() -> None:
    events = {family for family, gets in TREATMENTS.items() if gets.confirm is ConfirmForm.EVENT}
    notices = {family for family, gets in TREATMENTS.items() if gets.notices is ConfirmForm.EVENT}
    reopened = {family for family, gets in TREATMENTS.items() if gets.comes_back}
    assert events == notices == reopened == {Family.BROWSER}


def test_a_stream_is_resumed_for_families_whose_protocol_has_ids() -> None:
    resumed = {family for family, gets in TREATMENTS.items() if gets.resumes}
    assert resumed == {Family.BROWSER, Family.MCP}


def test_gemini_for_python_gets_nothing_of_ours() -> None:
    gets = TREATMENTS[Family.GEMINI_PYTHON]
    assert (gets.confirm, gets.pings, gets.notices) == (None, False, None)


def test_only_mcp_is_never_answered_early() -> None:
    assert {family for family, gets in TREATMENTS.items() if not gets.early_commit} == {Family.MCP}


@pytest.mark.parametrize(
    ("family", "error"),
    [
        (Family.MCP, LateError.JSON_RPC),
        (Family.GEMINI_PYTHON, LateError.GOOGLE),
        (Family.GEMINI, LateError.GOOGLE),
        (Family.ANTHROPIC, LateError.API_ERROR),
        (Family.OPENAI, LateError.API_ERROR),
        (Family.BROWSER, LateError.PROXY_ERROR),
        (Family.HTTP, LateError.PROXY_ERROR),
    ],
)
def test_a_late_error_is_written_as_the_family_reads_it(family: Family, error: LateError) -> None:
    assert TREATMENTS[family].error is error


@pytest.mark.parametrize(
    ("family", "terminator"),
    [
        (Family.MCP, Terminator.NEWLINE),
        (Family.GEMINI, Terminator.BLANK),
        (Family.ANTHROPIC, Terminator.NEWLINE),
        (Family.BROWSER, Terminator.NEWLINE),
    ],
)
def test_a_family_with_a_terminator_has_it_for_every_request(family: Family, terminator: Terminator) -> None:
    for fields in ("Accept: */*", STREAM, "X-Stainless-Lang: js"):
        assert terminator_for(family, named(fields)) is terminator


@pytest.mark.parametrize("family", [Family.OPENAI, Family.HTTP])
@pytest.mark.parametrize(
    ("fields", "terminator"),
    [
        ("X-Stainless-Lang: python\nAccept: application/json", Terminator.NEWLINE),
        (STREAM, Terminator.NEWLINE),
        ("Accept: text/html, text/event-stream;q=0.9", Terminator.NEWLINE),
        ("Accept: */*", Terminator.AUTO),
        ("User-Agent: node", Terminator.AUTO),
    ],
)
def test_readers_of_lines_get_a_newline_and_readers_by_hand_a_blank_line(
    family: Family, fields: str, terminator: Terminator
) -> None:
    assert terminator_for(family, named(fields)) is terminator


def test_the_work_to_recognise_a_client_grows_with_its_fields() -> None:
    def work(count: int) -> None:
        google = [b"google-genai-sdk/1.1 " * count]
        recognise("GET", has_body=False, named={b"x-goog-api-client": google, b"accept": [b"a," * count]})

    assert grows_no_faster_than_linear(work, 1000)


@pytest.mark.parametrize(
    ("accepts", "takes"),
    [
        ([], True),
        ([b"*/*"], True),
        ([b"application/json, text/event-stream"], True),
        ([b"application/json", b"text/event-stream"], True),
        ([b"application/json"], False),
        ([b"application/json, */*"], False),  # it prefers something else
    ],
)
def test_a_request_takes_streams_if_it_names_them_or_no_type_at_all(
    accepts: list[bytes], takes: bool
) -> None:
    assert takes_streams({b"accept": accepts} if accepts else {}) is takes


def test_of_a_list_of_types_the_first_64_are_read() -> None:
    assert accepts_streams({b"accept": [b"," * 63 + b"text/event-stream"]})
    assert accepts_streams({b"accept": [b"," * 60, b",,text/event-stream;q=1,a"]})
    assert not accepts_streams({b"accept": [b"," * 64 + b"text/event-stream"]})
    assert not accepts_streams({b"accept": [b"," * 32_000, b"text/event-stream"]})
