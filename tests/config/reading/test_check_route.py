"""What the keys of one route must agree on, each with its line and its remedy."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import indent

import pytest

from sse_keepalive_proxy.config.types import bridging
from sse_keepalive_proxy.stream.policy import LeavePublish
from sse_keepalive_proxy.wire import codings
from tests.config.keys import ED25519
from tests.config.writing import VALID, loaded, refused, said, stream_of, stream_problems

NO_FILE = "there is no such file (a relative path starts at the proxy's working directory)"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(ED25519)
    return path


def warned(stream: str, *, cors: str = "") -> list[str]:
    """The warnings of a configuration with this line in its stream and `cors` before it."""
    text = VALID.replace("    stream:\n", f"{cors}    stream:\n") + f"      {stream}\n"
    return said(loaded(text).warnings)


@pytest.mark.parametrize("reconnect", ["reconnect: off", "reconnect: {when: off}"])
def test_a_stalled_upstream_cannot_be_opened_again_with_reconnect_off(reconnect: str) -> None:
    assert stream_problems(f"stall: {{sign_of_life: events, action: reconnect}}\n{reconnect}") == [
        (
            ":8: routes[0].stream.stall.action: `reconnect` is off, so upstream cannot be opened again "
            "(write reconnect: {when: resumable} or {when: always}, or action: observe)"
        )
    ]


@pytest.mark.parametrize("reconnect", ["", "reconnect:", "reconnect: {when: resumable}"])
def test_a_stalled_upstream_can_be_opened_again_otherwise(reconnect: str) -> None:
    assert stream_of(f"stall: {{sign_of_life: events, action: reconnect}}\n{reconnect}").policy.reconnect


def test_reconnect_off_in_the_defaults_is_said_of_the_action_that_needs_it() -> None:
    problems = stream_problems(
        "stall: {sign_of_life: events, action: reconnect}", before="defaults: {reconnect: off}\n"
    )
    assert [problem.split(": ")[:2] for problem in problems] == [[":9", "routes[0].stream.stall.action"]]


@pytest.mark.parametrize("bridge", ["", "bridge: off"])
def test_the_bridge_as_sign_of_life_needs_a_bridge(bridge: str) -> None:
    (problem,) = stream_problems(f"stall: {{sign_of_life: bridge}}\n{bridge}")
    assert problem.startswith(":8: routes[0].stream.stall.sign_of_life: needs `bridge`")


def test_opening_again_needs_the_sign_of_life_written_out() -> None:
    (problem,) = stream_problems("stall: {action: reconnect}")
    assert problem.startswith(":8: routes[0].stream.stall.sign_of_life: is required for every")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("delay: 20s", "delay: must not exceed the max_delay of 15s"),
        ("delay: 2s, max_delay: 1s", "delay: must not exceed the max_delay of 1s"),
        (
            "max_delay: 100ms",
            "max_delay: is less than the delay's default of 250ms (write one, e.g. delay: 100ms)",
        ),
    ],
)
def test_a_delay_beyond_its_maximum_is_refused(line: str, problem: str) -> None:
    assert stream_problems(f"reconnect: {{{line}}}") == [f":8: routes[0].stream.reconnect.{problem}"]


def test_a_delay_may_be_its_own_maximum() -> None:
    assert stream_of("reconnect: {delay: 1s, max_delay: 1s}")


@pytest.mark.parametrize(
    "identity", ["", "{}", "{verify: jwt}", "{public_key_file: off}", "{audience: a, issuer: b}"]
)
def test_a_signature_cannot_be_checked_without_a_key(identity: str) -> None:
    assert stream_problems(f"identity: {identity}") == [
        (
            ":8: routes[0].stream.identity.public_key_file: `verify: jwt` needs the public key of the tokens "
            "(name its PEM file; or write verify: upstream if upstream authenticates by this token)"
        )
    ]


def test_a_key_file_is_looked_into(key: Path) -> None:
    assert stream_of(f"identity: {{public_key_file: {key}}}").policy.identity
    at = ":8: routes[0].stream.identity.public_key_file:"
    assert stream_problems("identity: {public_key_file: /nowhere.pem}") == [f"{at} {NO_FILE}"]
    assert stream_problems(f"identity: {{public_key_file: {key}, algorithms: [ES256]}}") == [
        f"{at} the key does not fit ES256 (it fits EdDSA)"
    ]
    key.write_text("hunter2")
    (problem,) = stream_problems(f"identity: {{public_key_file: {key}}}")
    assert problem.startswith(f"{at} contains no usable public key")
    assert "hunter2" not in problem


def test_a_key_file_named_by_the_environment_is_looked_into_and_not_quoted() -> None:
    text = VALID + "      identity: {public_key_file: '${KEY}'}\n"
    (problem,) = said(refused(text, environ={"KEY": "/hunter2.pem"}))
    assert problem == f":8: routes[0].stream.identity.public_key_file: {NO_FILE}"


def test_a_wrong_algorithm_and_a_missing_key_are_two_problems() -> None:
    problems = stream_problems("identity:\n  algorithms:\n    - HS256\n")
    assert [problem.split(": ")[:2] for problem in problems] == [
        [":8", "routes[0].stream.identity.public_key_file"],
        [":10", "routes[0].stream.identity.algorithms[0]"],
    ]


def test_a_wrong_algorithm_does_not_hide_a_wrong_key() -> None:
    problems = stream_problems("identity:\n  public_key_file: /nowhere.pem\n  algorithms: [none]\n")
    assert [problem.split(": ")[:2] for problem in problems] == [
        [":9", "routes[0].stream.identity.public_key_file"],
        [":10", "routes[0].stream.identity.algorithms[0]"],
    ]


@pytest.mark.parametrize("identity", ["on", "[]", "{verify: jwd}"])
def test_an_identity_with_a_fault_of_its_own_is_reported_once(identity: str) -> None:
    assert len(stream_problems(f"identity: {identity}")) == 1


@pytest.mark.parametrize("verify", ["jwt", "upstream"])
def test_an_identity_needs_its_extra(verify: str, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = f", public_key_file: {key}" if verify == "jwt" else ""
    line = f"identity: {{verify: {verify}{file}}}"
    assert stream_of(line)
    monkeypatch.setitem(sys.modules, "jwt", None)
    assert stream_problems(line) == [
        (
            ":8: routes[0].stream.identity: needs the extra `jwt`, which is not installed "
            "(pip install 'sse-keepalive-proxy[jwt]')"
        )
    ]
    assert stream_of("identity: off")


def test_decoding_without_its_extra_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert warned("decode: on") == []
    monkeypatch.setattr(codings, "_LIBRARIES", {"br": "no_such_library", "zstd": "no_such_package.zstd"})
    assert warned("decode: on") == [
        (
            ":8: warning: routes[0].stream.decode: br and zstd cannot be decoded, because the extra `decode` "
            "is not installed (pip install 'sse-keepalive-proxy[decode]')"
        )
    ]
    assert warned("decode: off") == []


def test_a_key_beside_verify_upstream_is_a_warning() -> None:
    assert warned("identity: {verify: upstream, public_key_file: /nowhere.pem}") == [
        (
            ":8: warning: routes[0].stream.identity.public_key_file: `verify: upstream` checks no signature, "
            "so this key is not used (remove it, or write verify: jwt)"
        )
    ]
    assert warned("identity: {verify: upstream, public_key_file: off}") == []


@pytest.mark.parametrize("identity", ["", "identity: off\n"])
def test_a_claim_without_an_identity_is_refused_where_it_stands(identity: str) -> None:
    confirm = "confirm:\n  data:\n    a: [1, 'user {claim.user.id} of {now}']\n"
    lines = 9 + bool(identity)
    assert stream_problems(identity + confirm) == [
        (
            f":{lines + 1}: routes[0].stream.confirm.data.a[1]: a claim needs `identity`, which is off on "
            "this route (write the place of the token: identity: {from: …})"
        )
    ]


def test_a_claim_with_an_identity_is_allowed() -> None:
    confirm = "confirm: {data: {id: '{claim.user.id}', at: '{now}'}}"
    stream = stream_of(f"identity: {{verify: upstream}}\n{confirm}")
    assert stream.confirm is not None
    assert stream.confirm.data["id"] == "{claim.user.id}"
    assert stream_of(confirm, before="defaults: {identity: {verify: upstream}}\n")


def test_credentials_need_named_origins() -> None:
    for origins in ("['*']", "[https://a.com, '*']"):
        text = VALID.replace("    stream:\n", f"    cors: {{origins: {origins}, credentials: true}}\n")
        assert said(refused(text)) == [
            (
                ":7: routes[0].cors.credentials: cannot be true for the origin `*`: browsers refuse such an "
                "answer (name the origins, or write credentials: false)"
            )
        ]
        assert loaded(text.replace("true", "false")).warnings == ()


LOST = (
    ":8: warning: routes[0].stream.early_commit.after: an early commit cannot carry upstream's CORS headers "
    "(set the route's `cors`, or write `cors: off` if a hop adds them or there is no other origin)"
)


@pytest.mark.parametrize(
    ("early", "cors", "expected"),
    [
        ("{after: 2s}", "", [LOST]),
        ("{after: 2s}", "    cors: {origins: ['*']}\n", []),
        ("{after: 2s}", "    cors: off\n", []),
        ("{after: off}", "", []),
        ("off", "", []),
        ("", "", []),
    ],
)
def test_an_early_commit_without_a_written_cors_is_a_warning(
    early: str, cors: str, expected: list[str]
) -> None:
    assert warned(f"early_commit: {early}", cors=cors) == expected


@pytest.mark.parametrize(
    ("after", "timeout", "never"),
    [
        ("8s", ", open_timeout: 8s", "8s"),
        ("9s", ", open_timeout: 8s", "8s"),
        ("8s", ", open_timeout: 9s", None),
        ("8s", "", None),
    ],
)
def test_an_early_commit_after_the_wait_is_over_is_a_warning(
    after: str, timeout: str, never: str | None
) -> None:
    route = VALID.replace(
        "    stream:\n", f"    cors: off\n    stream: {{early_commit: {{after: {after}}}{timeout}}}"
    )
    warnings = said(loaded(route).warnings)
    if never is None:
        assert warnings == []
    else:
        assert warnings == [
            (
                f":8: warning: routes[0].stream.early_commit.after: never happens: the open_timeout of "
                f"{never} ends the wait first (write less, or a longer open_timeout)"
            )
        ]


@pytest.mark.parametrize(
    ("reconnect", "warning"),
    [
        (
            "{give_up_after: 15s}",
            (
                "give_up_after: upstream may be given up before the first attempt: max_delay is 15s "
                "(write a longer one, or a shorter max_delay)"
            ),
        ),
        (
            "{give_up_after: 1s, max_delay: 2s}",
            (
                "give_up_after: upstream may be given up before the first attempt: max_delay is 2s "
                "(write a longer one, or a shorter max_delay)"
            ),
        ),
        (
            "{max_delay: 5m}",
            (
                "max_delay: upstream may be given up before the first attempt: give_up_after is 5m "
                "(write a shorter one, or a longer give_up_after)"
            ),
        ),
        ("{give_up_after: 16s}", None),
        ("{give_up_after: 2s, max_delay: 1s}", None),
        ("{when: off, give_up_after: 1s}", None),
        ("off", None),
        ("", None),
    ],
)
def test_an_upstream_given_up_before_it_is_asked_again_is_a_warning(
    reconnect: str, warning: str | None
) -> None:
    expected = [] if warning is None else [f":8: warning: routes[0].stream.reconnect.{warning}"]
    assert warned(f"reconnect: {reconnect}") == expected


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("reconnect: {first_within: 11s}", "reconnect.first_within"),
        ("reconnect: {first_within: 10s}", None),
        ("reconnect: {first_within: off}", None),
        ("reconnect: {when: off, first_within: 11s}", None),
        ("early_commit: {after: 11s}", "early_commit.after"),
        ("early_commit: {after: 10s}", None),
    ],
)
def test_a_status_later_than_a_browser_client_waits_for_it_is_a_warning(line: str, key: str | None) -> None:
    expected = (
        f":9: warning: routes[0].stream.{key}: a browser page may give up after 10 s (write less, e.g. 8s)"
    )
    assert warned(line, cors="    cors: off\n") == ([] if key is None else [expected])


def test_what_the_defaults_make_later_than_a_client_waits_is_a_warning_where_it_was_written() -> None:
    (warning,) = said(loaded("defaults: {reconnect: {first_within: 1m}}\n" + VALID).warnings)
    assert warning.startswith(":1: warning: defaults.reconnect.first_within: a browser page")


def test_a_group_of_one_claim_needs_an_identity() -> None:
    fault = (
        "routes[0].stream.share.by: a claim needs `identity`, which is off on this route "
        "(write the place of the token: identity: {from: …}; or share by credential)"
    )
    assert stream_problems("share: {by: 'claim:user.id'}") == [f":8: {fault}"]
    assert stream_problems("identity: off\nshare: {by: 'claim:user.id'}") == [f":9: {fault}"]
    assert stream_of("share: {by: 'claim:user.id'}\nidentity: {verify: upstream}").policy.share
    assert stream_of("share: {by: credential}").policy.share


def test_a_claim_in_the_defaults_is_reported_where_it_is_written() -> None:
    (problem,) = stream_problems("", before="defaults: {share: {by: 'claim:sub'}}\n")
    assert problem.startswith(":1: defaults.share.by: a claim needs `identity`")
    assert stream_of("share: off", before="defaults: {share: {by: 'claim:sub'}}\n").policy.share is None


KEPT = (
    "routes[0].stream.reconnect.on_refusal: `keep` needs `identity` with `verify: jwt`, because it keeps a "
    "client that upstream refuses"
)


def test_a_client_is_kept_after_a_refusal_only_by_the_signature_of_its_token(key: Path) -> None:
    keep = "reconnect: {on_refusal: keep}\n"
    assert stream_problems(keep) == [
        f":8: {KEPT} (write identity: {{from: …, public_key_file: …}}, or on_refusal: end)"
    ]
    assert stream_problems(keep + "identity: {verify: upstream}") == [
        f":8: {KEPT} (write verify: jwt with a public_key_file, or on_refusal: end)"
    ]
    assert stream_of(f"{keep}identity: {{public_key_file: {key}}}")
    assert stream_of(f"{keep}identity: {{verify: jwt, public_key_file: {key}}}")
    assert stream_of("reconnect: {on_refusal: end}")


@pytest.mark.parametrize(
    ("lines", "warning"),
    [
        (
            "credential: []",
            (
                ".by: never happens: `credential` names no place, and without a credential nothing is shared "
                "(name the places in `credential`)"
            ),
        ),
        ("credential: ['header:cookie']", None),
        ("credential: []\n      identity: {verify: upstream}", None),
        ("open_timeout: 1m", None),
    ],
)
def test_a_group_of_one_credential_without_a_place_of_it_is_a_warning(
    lines: str, warning: str | None
) -> None:
    expected = [] if warning is None else [f":8: warning: routes[0].stream.share{warning}"]
    assert warned(f"share: {{by: credential}}\n      {lines}") == expected


def test_a_share_that_does_not_say_by_what_is_a_warning() -> None:
    expected = [
        (
            ":8: warning: routes[0].stream.share: nothing is shared without `by` "
            "(write by: credential or by: claim:user.id)"
        )
    ]
    assert warned("share: {replay: {ids: add}}") == expected
    assert warned("share: {linger: 1m}") == expected
    for deliberate in ("off", "", "{by: off, linger: 1m}", "{by: credential, linger: 1m}"):
        assert warned(f"share: {deliberate}") == []


def test_a_share_with_a_fault_of_its_own_is_reported_once() -> None:
    assert len(stream_problems("share: on")) == 1
    assert len(stream_problems("share: {by: claims}")) == 1
    assert len(stream_problems("credential: [x]\nshare: {by: credential}")) == 1


@pytest.mark.parametrize(
    ("size", "buffer", "fits"),
    [("1MiB", "", True), ("2MiB", "", False), ("2MiB", "max_buffer: 2MiB", True)],
)
def test_a_log_fits_into_what_may_wait_for_a_client(size: str, buffer: str, fits: bool) -> None:
    share = f"share: {{by: credential, replay: {{bytes: {size}}}}}\n{buffer}"
    if fits:
        assert stream_of(share)
        return
    (problem,) = stream_problems(share)
    assert "share.replay.bytes: must not exceed max_buffer, which is 1MiB" in problem


@pytest.mark.parametrize(
    ("limits", "size", "fits"),
    [
        ("", "64MiB", True),
        ("", "65MiB", False),
        ("limits: {max_streams: 5}\n", "65MiB", False),
        ("limits: {max_replay: 65MiB}\n", "65MiB", True),
        ("limits: {max_replay: 1KiB}\n", "2KiB", False),
    ],
)
def test_one_log_fits_into_the_limit_of_all_logs(limits: str, size: str, fits: bool) -> None:
    share = f"share: {{by: credential, replay: {{bytes: {size}}}}}\nmax_buffer: 1GiB"
    if fits:
        assert stream_of(share, before=limits)
        return
    (problem,) = stream_problems(share, before=limits)
    assert "routes[0].stream.share.replay.bytes: must not exceed limits.max_replay, which is " in problem
    assert problem.endswith("(write less, or a larger max_replay)")


BRIDGE = """\
bridge:
  servers: nats://nats:4222
  subscriber: claim:user.id
  subjects: [{subject: chat.*, recipients: to, data: "@"}]
"""
UPSTREAM = "identity: {verify: upstream}\n"


def test_a_bridge_needs_an_identity() -> None:
    (problem,) = stream_problems(BRIDGE)
    assert problem == (
        ":10: routes[0].stream.bridge.subscriber: a claim needs `identity`, which is off on this route"
        " (write the place of the token: identity: {from: …})"
    )


def test_the_messages_of_a_bridge_go_to_clients_that_share_by_its_own_claim() -> None:
    assert stream_of(UPSTREAM + BRIDGE + "share: {by: claim:user.id}").bridge is not None
    assert stream_of(UPSTREAM + BRIDGE + "share: {by: credential}").bridge is not None
    (problem,) = stream_problems(UPSTREAM + BRIDGE + "share: {by: claim:tenant}")
    assert "must be the claim by which clients share a stream: claim:tenant" in problem


def test_a_bridge_without_its_extra_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bridging, "find_spec", lambda _: None)
    (problem,) = stream_problems(UPSTREAM + BRIDGE)
    assert problem == (
        ":9: routes[0].stream.bridge: needs the extra `nats`, which is not installed"
        " (pip install 'sse-keepalive-proxy[nats]')"
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("nats://nats:4222", "nats://a:b@nats", "credentials in the URL are not supported"),
        ("nats://nats:4222", "http://nats", "not the URL of a NATS server"),
        ("chat.*", "chat.>.x", "not a subject of NATS"),
        ("claim:user.id", "user.id", "not the place of a claim"),
        ("to,", "'to[',", "not a JMESPath expression"),
        ("to,", "iso8602(to),", "iso8602 is not a function (did you mean iso8601?)"),
        ("to,", "Keys(to),", "Keys is not a function"),
        ('data: "@"', "keys: [id]", "must have as many expressions as `keys`"),
        (', data: "@"', "", "has no event for clients"),
        ('data: "@"', 'data: "@", frames: [{data: "@"}]', "cannot stand beside `event` or `data`"),
        ('data: "@"', "event: a", "needs `data`"),
        ("  subscriber", "  user: me\n  subscriber", "must be written together"),
        ("  subscriber", "  durable: {stream: a.b}\n  subscriber", "not the name of a JetStream stream"),
        ("  subscriber", "  durable: {}\n  subscriber", "bridge.durable.stream: "),
        ("  subscriber", "  credentials_file: /none.creds\n  subscriber", "there is no such file"),
        (
            "  subscriber",
            f"  credentials_file: {__file__}\n  subscriber",
            "is not a file with NATS credentials (`nsc generate creds` writes one)",
        ),
        ("  subscriber", "  tls: {ca_file: /none.pem}\n  subscriber", "there is no such file"),
    ],
)
def test_a_fault_of_a_bridge_is_named(old: str, new: str, problem: str) -> None:
    assert problem in stream_problems(UPSTREAM + BRIDGE.replace(old, new, 1))[0]


@pytest.mark.parametrize(
    ("share", "warns"),
    [
        ("off", True),
        ("{by: claim:user.id}", True),
        ("{by: claim:user.id, replay: {ids: upstream}}", True),
        ("{by: claim:user.id, replay: {ids: add}}", False),
    ],
)
def test_a_durable_bridge_without_ids_of_the_proxy_is_a_warning(share: str, warns: bool) -> None:
    bridge = BRIDGE.replace("bridge:\n", "bridge:\n  durable: {stream: S}\n")
    found = warned(indent(UPSTREAM + bridge + f"share: {share}", " " * 6).strip())
    if not warns:
        assert found == []
        return
    (warning,) = found
    assert warning == (
        ":10: warning: routes[0].stream.bridge.durable: what is published while the proxy restarts is not "
        "filled: no client can say where it was (write share: {by: claim:…, linger: …, replay: {ids: add}})"
    )


PUBLISH = 'leave: {publish: {subject: user.status, data: {user: "{claim.user.id}"}}}\n'


def test_what_is_published_when_a_client_leaves_needs_a_bridge_and_an_identity() -> None:
    publish = stream_of(UPSTREAM + BRIDGE + PUBLISH).policy.publish
    assert publish == LeavePublish("user.status", {"user": "{claim.user.id}"})
    (problem,) = stream_problems(UPSTREAM + PUBLISH)
    assert problem == (
        ":9: routes[0].stream.leave.publish: needs `bridge`, whose connection to NATS is used"
        " (write bridge: {servers: …}, or publish: off)"
    )
    assert stream_problems(PUBLISH)[0] == (
        ":8: routes[0].stream.leave.publish.data.user: a claim needs `identity`, which is off on this route"
        " (write the place of the token: identity: {from: …})"
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "user.status",
            '"user.*"',
            "is published on, so it has no wildcards (name one subject",
        ),
        ("user.status", '"user.{claim.sub}"', "has no placeholders (write claims in `data`)"),
        ("user.status", "user..status", "not a subject of NATS"),
        ("{claim.user.id}", "seven", "data: must say who has gone (write a claim, e.g. {claim.user.id})"),
        ("{claim.user.id}", "{user}", "{user} is not a placeholder"),
    ],
)
def test_a_fault_of_what_is_published_is_named(old: str, new: str, problem: str) -> None:
    (found,) = stream_problems(UPSTREAM + BRIDGE + PUBLISH.replace(old, new))
    assert problem in found


def test_a_bridge_that_only_observes_needs_no_event() -> None:
    observing = BRIDGE.replace(', data: "@"', "").replace("  servers", "  mode: observe\n  servers")
    assert stream_of(UPSTREAM + observing).bridge is not None


def test_the_password_of_a_bridge_is_not_printed() -> None:
    written = BRIDGE.replace("  subscriber", "  user: me\n  password: hunter2\n  subscriber")
    stream = stream_of(UPSTREAM + written)
    assert stream.bridge is not None
    assert stream.bridge.policy.servers.password == "hunter2"
    assert "hunter2" not in stream.model_dump_json()
    assert "hunter2" not in repr(stream.bridge.policy)
