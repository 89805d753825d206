"""What the model turns into: policies, defaults merged, routes that match and shadow."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from sse_keepalive_proxy.config import Cors, Match
from sse_keepalive_proxy.stream.policy import (
    ConfirmForm,
    EarlyCommit,
    Identity,
    OnRefusal,
    Reconnect,
    ReconnectWhen,
    Replay,
    ReplayIds,
    Share,
    StallAction,
    StreamPolicy,
    Verify,
)
from tests.config.keys import ED25519
from tests.config.writing import VALID, loaded, refused, said, stream_of
from tests.support.authority import Authority


def test_the_defaults_of_the_file_are_the_defaults_of_the_policy() -> None:
    assert stream_of("").policy == StreamPolicy()


def test_a_policy_says_what_the_file_says() -> None:
    policy = stream_of(
        """
        credential: ["Header:X-Token", "query:Token"]
        head: refuse
        confirm: {form: event, event: "", data: {a: 1}, padding: 2KiB, wait: 200ms}
        keepalive: {interval: 5s, text: hi, report_idle: true}
        stall: {after: 2m, sign_of_life: bytes, action: notify, close_after: 1h,
                ignore: {events: [a], types: [b]}}
        identity: {from: "query:t", verify: upstream, algorithms: [ES256, RS256], audience: a, issuer: i,
                   close_at_expiry: true}
        early_commit: {after: 2s, methods: [GET, POST]}
        open_timeout: 1m
        reconnect: {when: always, first_within: off, delay: 1s, max_delay: 2s, give_up_after: 3s,
                    on_status: [503], on_refusal: end, announce: false}
        share: {by: "claim:user.id", trust: 1m, max_clients: 4, linger: 2m,
                replay: {events: 3, bytes: 1MiB, ids: add}}
        max_age: 1h
        rewrite: {unname: [Generic]}
        max_event: 2MiB
        """
    ).policy
    assert policy.credential == ("header:x-token", "query:Token", "query:t")
    assert policy.identity == Identity(
        source="query:t",
        verify=Verify.UPSTREAM,
        algorithms=("ES256", "RS256"),
        audience="a",
        issuer="i",
        close_at_expiry=True,
    )
    assert policy.early_commit == EarlyCommit(2.0, frozenset({"GET", "POST"}))
    assert policy.open_timeout == 60.0
    assert policy.reconnect == Reconnect(
        ReconnectWhen.ALWAYS, None, 1.0, 2.0, 3.0, frozenset({503}), announce=False
    )
    assert policy.share == Share("user.id", 60.0, 4, 120.0, Replay(3, 1 << 20, ReplayIds.ADD))
    assert policy.max_age == 3600.0
    assert policy.refuse_head
    assert policy.confirm is not None
    assert (policy.confirm.form, policy.confirm.event, policy.confirm.data) == (
        ConfirmForm.EVENT,
        "",
        {"a": 1},
    )
    assert (policy.confirm.padding, policy.confirm.wait) == (2048, 0.2)
    assert policy.keepalive is not None
    assert (policy.keepalive.interval, policy.keepalive.text, policy.keepalive.report_idle) == (
        5.0,
        "hi",
        True,
    )
    assert policy.stall is not None
    assert policy.stall.ignore_events | policy.stall.ignore_types == {"a", "b"}
    assert (policy.stall.action, policy.stall.close_after) == (StallAction.NOTIFY, 3600.0)
    assert policy.unname == {"Generic"}
    assert policy.max_event == 2 << 20


@pytest.mark.parametrize("line", ["reconnect: off", "reconnect: {when: off}"])
def test_reconnect_can_be_off(line: str) -> None:
    assert stream_of(line).policy.reconnect is None


@pytest.mark.parametrize(
    "line",
    ["", "early_commit: off", "early_commit:", "early_commit: {after: off}", "max_age: off", "identity: off"],
)
def test_what_is_off_by_default_can_be_said_to_be_off(line: str) -> None:
    policy = stream_of(line).policy
    assert (policy.early_commit, policy.max_age, policy.identity) == (None, None, None)


@pytest.mark.parametrize("line", ["", "share: off", "share:", "share: {by: off, linger: 1m, replay: {}}"])
def test_clients_share_nothing_unless_it_is_said_by_what(line: str) -> None:
    assert stream_of(line).policy.share is None


def test_a_group_of_one_credential_has_the_defaults_of_the_policy() -> None:
    assert stream_of("share: {by: credential}").policy.share == Share()
    assert stream_of("share: {by: credential, replay: off}").policy.share == Share()
    assert stream_of("share: {by: credential, replay: }").policy.share == Share(replay=Replay())


def test_a_client_is_kept_after_a_refusal_only_if_it_is_said(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(ED25519)
    policy = stream_of(f"identity: {{public_key_file: {key}}}\nreconnect: {{on_refusal: keep}}").policy
    assert policy.reconnect == Reconnect(on_refusal=OnRefusal.KEEP)


def test_the_token_of_an_identity_is_a_credential_once() -> None:
    named = "identity: {from: 'query:access_token', verify: upstream}"
    assert stream_of(named).policy.credential == StreamPolicy().credential
    elsewhere = "credential: ['header:cookie']\nidentity: {from: 'header:X-Token', verify: upstream}"
    assert stream_of(elsewhere).policy.credential == ("header:cookie", "header:x-token")


def test_the_token_of_an_identity_is_where_access_tokens_are_unless_said_otherwise() -> None:
    identity = stream_of("identity: {verify: upstream}").policy.identity
    assert identity is not None
    assert identity.source == "query:access_token"


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://App.Example.com", "https://app.example.com"),
        ("https://a.com:443", "https://a.com"),
        ("https://a.com:8443", "https://a.com:8443"),
        ("http://a.com:443", "http://a.com:443"),
        ("http://a.com:080", "http://a.com"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("*", "*"),
    ],
)
def test_an_origin_is_kept_as_browsers_send_it(written: str, sent: str) -> None:
    text = VALID.replace("    stream:\n", f"    cors: {{origins: ['{written}']}}\n")
    (route,) = loaded(text).settings.routes
    assert route.stream is None
    assert route.cors == Cors(origins=(sent,), credentials=False)


def test_cors_is_off_by_default() -> None:
    assert loaded(VALID).settings.routes[0].cors is None
    assert loaded(VALID.replace("    stream:\n", "    cors: off\n")).settings.routes[0].cors is None


@pytest.mark.parametrize(
    ("line", "watched"), [("", True), ("watch: true\n", True), ("watch: false\n", False)]
)
def test_the_file_is_watched_unless_said_otherwise(line: str, watched: bool) -> None:
    assert loaded(line + VALID).settings.watch is watched


def test_the_files_of_a_configuration_are_its_key_files_each_once() -> None:
    identity = "identity: {verify: upstream, public_key_file: "
    text = VALID + f"      {identity}/a.pem}}\n"
    for name, path in (("second", "/b.pem"), ("third", "/a.pem")):
        route = f"name: {name}, match: {{path: /{name}}}, upstream: notify, stream: {{{identity}{path}}}}}"
        text += f"  - {{{route}}}\n"
    key = "public_key_file"
    assert loaded(text).settings.files == {Path("/a.pem"): key, Path("/b.pem"): key}
    assert loaded(VALID).settings.files == {}


def test_the_files_of_tls_are_named_by_their_keys(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.certificate("server", "localhost")
    upstream = f"https://notify:6687, tls: {{ca_file: {authority.file}, client_cert: {server}}}"
    text = f"tls: {{cert_file: {server}, key_file: {server}, client_ca_file: off}}\n" + VALID
    assert loaded(text.replace("http://notify:6687", upstream)).settings.files == {
        server: "tls.cert_file",
        authority.file: "upstreams.notify.tls.ca_file",
    }


@pytest.mark.parametrize("line", ["confirm: off", "confirm: {form: off}"])
def test_confirm_can_be_off(line: str) -> None:
    assert stream_of(line).policy.confirm is None


def test_keepalive_and_stall_can_be_off() -> None:
    policy = stream_of("keepalive: off\nstall: off").policy
    assert (policy.keepalive, policy.stall) == (None, None)


def test_an_absent_stream_is_pure_pass_through() -> None:
    text = "defaults: {keepalive: off}\n" + VALID.replace("    stream:\n", "")
    assert loaded(text).settings.routes[0].stream is None


def test_defaults_are_merged_key_by_key() -> None:
    stream = stream_of(
        "keepalive: {interval: 5s}\nrewrite: {unname: [b]}",
        before="defaults: {keepalive: {text: hi}, rewrite: {unname: [a]}, head: refuse, stall: off}\n",
    )
    assert stream.keepalive is not None
    assert (stream.keepalive.interval, stream.keepalive.text, stream.head) == (5.0, "hi", "refuse")
    assert (stream.rewrite.unname, stream.stall) == (("b",), None)


def test_a_mapping_turns_on_what_defaults_turned_off() -> None:
    before = "defaults: {keepalive: off, stall: off, confirm: off}\n"
    stream = stream_of("keepalive: {interval: 5s}\nstall:", before=before)
    assert stream.keepalive is not None
    assert stream.stall is not None
    assert stream.confirm is None


@pytest.mark.parametrize("line", ["", "keepalive:", "keepalive: {}"])
def test_nothing_written_keeps_what_defaults_say(line: str) -> None:
    stream = stream_of(line, before="defaults: {keepalive: {text: hi}}\n")
    assert stream.keepalive is not None
    assert stream.keepalive.text == "hi"


def test_the_data_of_an_event_is_replaced_whole() -> None:
    stream = stream_of("confirm: {data: {a: 1}}", before="defaults: {confirm: {data: {b: 2}}}\n")
    assert stream.confirm is not None
    assert stream.confirm.data == {"a": 1}


def test_a_sign_of_life_may_be_written_out_in_defaults() -> None:
    stream = stream_of("stall: {action: notify}", before="defaults: {stall: {sign_of_life: events}}\n")
    assert stream.stall is not None


def test_closing_a_stalled_stream_needs_no_sign_of_life_written_out() -> None:
    assert stream_of("stall: {close_after: 5m}").policy.stall is not None


@pytest.mark.parametrize("section", ["admin", "logging", "limits", "drain", "defaults"])
def test_an_empty_section_has_every_default(section: str) -> None:
    assert loaded(f"{section}:\n{VALID}").settings == loaded(VALID).settings


def test_concerns_at_the_top_can_be_off() -> None:
    text = f"admin: off\nlimits: {{max_streams_per_client: off, max_request_body: off}}\n{VALID}"
    settings = loaded(text).settings
    assert settings.admin is None
    assert (settings.limits.max_streams_per_client, settings.limits.max_request_body) == (None, None)


def test_a_bare_address_is_a_network_of_one() -> None:
    networks = loaded(f'trusted_proxies: [10.0.0.1, "::1"]\n{VALID}').settings.trusted_proxies
    assert networks == (ip_network("10.0.0.1/32"), ip_network("::1/128"))


def test_a_configuration_cannot_be_changed() -> None:
    settings = loaded(VALID).settings
    with pytest.raises(ValidationError, match="frozen"):
        settings.client_address = "X"


@pytest.mark.parametrize(
    ("match", "request_", "taken"),
    [
        (Match(path="/events"), ("/events", "GET", "a"), True),
        (Match(path="/events"), ("/events/", "GET", "a"), False),
        (Match(path="/events/*"), ("/events/x", "GET", "a"), True),
        (Match(path="/events/*"), ("/events/", "GET", "a"), True),
        (Match(path="/events/*"), ("/events", "GET", "a"), False),
        (Match(path="/events/*"), ("/events%2Fx", "GET", "a"), False),
        (Match(path="/*"), ("/", "GET", "a"), True),
        (Match(path="/*", methods=("GET",)), ("/", "POST", "a"), False),
        (Match(path="/*", host=("Example.com",)), ("/", "GET", "EXAMPLE.COM"), True),
        (Match(path="/*", host=("*.example.com",)), ("/", "GET", "a.b.example.com"), True),
        (Match(path="/*", host=("*.example.com",)), ("/", "GET", "example.com"), False),
        (Match(path="/*", host=("*.example.com",)), ("/", "GET", "notexample.com"), False),
    ],
)
def test_a_match_takes_a_request_or_not(match: Match, request_: tuple[str, str, str], taken: bool) -> None:
    path, method, host = request_
    assert (match.takes_path(path) and match.takes(method=method, host=host)) is taken


@pytest.mark.parametrize(
    ("first", "second", "covered"),
    [
        ("path: /*", "path: /a", True),
        ("path: /*", "path: /*", True),
        ("path: /a/*", "path: /a/b/*", True),
        ("path: /a/*", "path: /a", False),
        ("path: /a", "path: /a/*", False),
        ("path: /a, methods: [GET]", "path: /a", False),
        ("path: /a, methods: [GET, POST]", "path: /a, methods: [GET]", True),
        ("path: /a, methods: [GET]", "path: /a, methods: [POST]", False),
        ("path: /a, host: x.com", "path: /a", False),
        ("path: /a, host: '*.x.com'", "path: /a, host: a.X.com", True),
        ("path: /a, host: '*.x.com'", "path: /a, host: '*.b.x.com'", True),
        ("path: /a, host: '*.x.com'", "path: /a, host: [a.x.com, y.com]", False),
        ("path: /a, host: a.x.com", "path: /a, host: '*.x.com'", False),
    ],
)
def test_a_shadowed_route_is_an_error_that_names_the_shadow(first: str, second: str, covered: bool) -> None:
    text = f"""\
    upstreams: {{a: {{url: http://a}}}}
    routes:
      - {{name: first, match: {{{first}}}, upstream: a}}
      - {{name: second, match: {{{second}}}, upstream: a}}
    """
    if covered:
        (problem,) = said(refused(text))
        assert problem.startswith(":4: routes[1]: never reached: `first` matches all its requests")
    else:
        assert len(loaded(text).settings.routes) == 2


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ("path: events", "a path begins with /"),
        ("path: /a*", "a * is allowed only at the end"),
        ("path: /*/a", "a * is allowed only at the end"),
        ("path: '/a?b'", "a query is not part of a path"),
        ("path: '/a#b'", "a fragment is not part of a path"),
        ("path: /é", "write this character percent-encoded"),
        ("path: /a, methods: [get]", "methods are upper-case"),
        ("path: /a, methods: []", "must not be empty"),
        ("path: /a, methods: GET", "must be a list"),
        ("path: /a, host: 'x.com:80'", "not a host name"),
        ("path: /a, host: http://x", "not a host name"),
        ("path: /a, host: 'a.*.com'", "not a host name"),
    ],
)
def test_a_wrong_match_is_refused(match: str, message: str) -> None:
    (problem,) = said(refused(VALID.replace("path: /events", match)))
    assert problem.startswith(":5: routes[0].match.")
    assert message in problem


@pytest.mark.parametrize("name", ["_none", "Events", "1st", "a b", "'é'"])
def test_a_route_name_is_a_metrics_label(name: str) -> None:
    (problem,) = said(refused(VALID.replace("name: events", f"name: {name}")))
    assert problem.startswith(":4: routes[0].name: not a valid name (use lower-case letters")


def test_two_routes_cannot_share_a_name() -> None:
    text = VALID + "  - {name: events, match: {path: /b}, upstream: notify}\n"
    assert said(refused(text)) == [":8: routes[1].name: routes[0] already has this name"]
