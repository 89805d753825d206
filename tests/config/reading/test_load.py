"""A file to a configuration, or to every problem of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sse_keepalive_proxy.config import Overrides, from_upstream, load
from sse_keepalive_proxy.errors import ConfigurationError
from tests.config.writing import VALID, loaded, refused, said, stream_of, stream_problems

_NO_SHARE_KEY = (
    "must be credential, claim:PATH or off "
    "(a claim is written with a colon, and dots between its names: claim:user.id)"
)


def test_the_smallest_file_has_every_default() -> None:
    configured = loaded(VALID)
    assert configured.warnings == ()
    assert configured.settings.routes[0].stream == stream_of("keepalive:\nstall:\nconfirm:\nrewrite:")


def test_seven_mistakes_are_seven_problems_each_with_its_line() -> None:
    text = """\
    listen: 0.0.0.0
    limits:
      max_streams: "10000"
    upstreams:
      notify: {url: http://notify:6687}
    routes:
      - name: events
        match: {path: /events}
        upstream: notfy
        stream:
          kepalive: off
          keepalive:
            interval: 15
          stall:
            action: notify
      - name: again
        match: {path: /events, methods: [GET]}
        upstream: notify
    """
    assert said(refused(text)) == [
        ":1: listen: an address needs a port (write host:port, :port, [::1]:port or unix:/path)",
        ":3: limits.max_streams: must be a whole number (without quotes and without a unit)",
        ":9: routes[0].upstream: no upstream has this name (did you mean notify?)",
        ":11: routes[0].stream.kepalive: unknown key (did you mean keepalive?)",
        (
            ":13: routes[0].stream.keepalive.interval: a duration needs a unit"
            " (write it like 250ms, 15s, 2m or 1h)"
        ),
        (
            ":14: routes[0].stream.stall.sign_of_life: is required for every action except observe"
            " (write bytes, comments, events or bridge)"
        ),
        (
            ":16: routes[1]: never reached: `events` matches all its requests"
            " (put it before `events`, or narrow `events`)"
        ),
    ]


@pytest.mark.parametrize(
    "key",
    ["post_as_get"],
)
def test_a_key_of_a_later_version_is_unknown_in_a_stream(key: str) -> None:
    (problem,) = stream_problems(f"{key}: off")
    assert problem.startswith(f":8: routes[0].stream.{key}: unknown key (")


def test_a_key_of_a_route_is_unknown_at_the_top() -> None:
    (problem,) = said(refused(f"cors: off\n{VALID}"))
    assert problem.startswith(":1: cors: unknown key (known here: listen, reuse_port, tls, admin, ")


def test_an_unknown_key_without_a_near_one_names_the_known_ones() -> None:
    (problem,) = said(refused(VALID.replace("notify: {url", "notify: {zzz: 1, url")))
    known = "url, connect_timeout, response_timeout, frozen_after, tls"
    assert problem == f":2: upstreams.notify.zzz: unknown key (known here: {known})"


def test_an_upstream_may_be_called_like_a_key() -> None:
    (problem,) = said(refused("upstreams: {url: {url: http://a, zzz: 1}}\nroutes: []\n"))[:1]
    known = "url, connect_timeout, response_timeout, frozen_after, tls"
    assert problem == f":1: upstreams.url.zzz: unknown key (known here: {known})"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("keepalive: {report_idle: 'true'}", "must be true or false (without quotes)"),
        ("keepalive: {report_idle: yes}", "must be true or false (without quotes)"),
        ("keepalive: {text: 15}", "must be text (put it in quotes)"),
        ("keepalive: {data: x}", "must be a mapping (write its keys below it, indented)"),
        ("keepalive: []", "must be a mapping (write its keys below it, indented)"),
        ("keepalive: on", "must be a mapping (write its keys below it, indented)"),
        ("rewrite: {unname: Generic}", "must be a list (write it like [a, b])"),
        ("rewrite: {unname: [3]}", "must be text (put it in quotes)"),
        ("rewrite: {unname: ['']}", "must not be empty"),
        ("keepalive: {form: coment}", "must be comment or event (did you mean comment?)"),
        ("keepalive: {form: 3}", "must be comment or event"),
        ("stall: {action: restart}", "must be observe, notify or reconnect"),
        ("reconnect: {when: allways}", "must be resumable, always or off (did you mean always?)"),
        ("confirm: {form: of}", "must be auto, event, comment or off (did you mean off?)"),
        ("reconnect: {on_refusal: kep}", "must be end or keep (did you mean keep?)"),
        ("share: {by: user.id}", _NO_SHARE_KEY),
        ("share: {by: 'claim:'}", _NO_SHARE_KEY),
        ("share: {by: 'claim:user..id'}", _NO_SHARE_KEY),
        ("share: {by: '{claim.user.id}'}", _NO_SHARE_KEY),
        ("share: {by: 'credential:user'}", _NO_SHARE_KEY),
        ("share: {by: [credential]}", "must be text (put it in quotes)"),
        ("share: {by: on}", _NO_SHARE_KEY),
        ("share: {linger: off}", "cannot be off (write a short one, e.g. 1ms)"),
        ("share: {max_clients: 0}", "must be 1 or more (zero does not mean unlimited)"),
        ("share: {replay: {events: off}}", "must be a whole number (without quotes and without a unit)"),
        ("share: {replay: {bytes: 256}}", "a size needs a unit (write it like 512B, 64KiB, 1MiB or 1GiB)"),
        ("share: {replay: {ids: adds}}", "must be upstream or add (did you mean add?)"),
        ("reconnect: {on_status: [200]}", "not the status of a failure (a number from 400 to 599)"),
        ("reconnect: {on_status: [600]}", "not the status of a failure (a number from 400 to 599)"),
        (
            "reconnect: {on_status: ['503']}",
            "must be a whole number (without quotes and without a unit)",
        ),
        (
            "reconnect: {give_up_after: off}",
            "cannot be off (every wait needs a limit; write a long one, e.g. 1h)",
        ),
        ("reconnect: {delay: off}", "cannot be off (write a short one, e.g. 1ms)"),
        ("reconnect: {first_witin: 8s}", "unknown key (did you mean first_within?)"),
        ("early_commit: {methods: []}", "must not be empty"),
        ("early_commit: {methods: [get]}", "methods are upper-case (e.g. GET)"),
        ("early_commit: {after: 5}", "a duration needs a unit (write it like 250ms, 15s, 2m or 1h)"),
        ("max_age: 0s", "a duration cannot be zero (write it like 250ms, 15s, 2m or 1h)"),
        (
            "identity: {verify: upstream, from: cookie}",
            "not a place for a credential (write query:NAME or header:name)",
        ),
        ("identity: {verify: upstream, form: 'query:t'}", "unknown key (did you mean from?)"),
        (
            "identity: {verify: upstream, source: 'query:t'}",
            (
                "unknown key (known here: from, verify, public_key_file, algorithms, audience, issuer, "
                "close_at_expiry)"
            ),
        ),
        ("identity: {verify: upstream, algorithms: []}", "must not be empty"),
        ("identity: {verify: upstream, algorithms: EdDSA}", "must be a list (write it like [a, b])"),
        (
            "identity: {verify: upstream, algorithms: [HS256]}",
            (
                "HS256 proves nothing: anyone with the public key could make such a token (write EdDSA, "
                "ES256, ES384, ES512, RS256, RS384, RS512, PS256, PS384 or PS512)"
            ),
        ),
        (
            "identity: {verify: upstream, algorithms: [eddsa]}",
            "must be EdDSA, ES256, ES384, ES512, RS256, RS384, RS512, PS256, PS384 or PS512",
        ),
        ("identity: {verify: upstream, public_key_file: /etc/}", "must be a file, not a directory"),
        (
            "identity: {verify: upstream, issuer: }",
            "has no value (leave the key out for its default, or write off)",
        ),
        ("keepalive: {interval: off}", "cannot be off (write `keepalive: off` instead)"),
        ("keepalive: {interval: }", "has no value (leave the key out for its default)"),
        ("keepalive: {text: }", "has no value (leave the key out for its default)"),
        (
            "stall: {close_after: }",
            "has no value (leave the key out for its default, or write off)",
        ),
        ("keepalive: {interval: 1:30}", "a duration needs a unit (write it like 250ms, 15s, 2m or 1h)"),
        ("open_timeout: off", "cannot be off (every wait needs a limit; write a long one, e.g. 1h)"),
        ("write_timeout: off", "cannot be off (every wait needs a limit; write a long one, e.g. 1h)"),
        ("max_event: off", "cannot be off (every buffer needs a limit; write a large one, e.g. 64MiB)"),
        ("max_buffer: off", "cannot be off (every buffer needs a limit; write a large one, e.g. 64MiB)"),
        ("max_event: 0B", "a size cannot be zero (write it like 512B, 64KiB, 1MiB or 1GiB)"),
        ('confirm: {event: "a\\nb"}', "must be one line (a line break would break the event stream's frame)"),
        ("credential: [cookie]", "not a place for a credential (write query:NAME or header:name)"),
        ("credential: ['header:a b']", "not the name of a header (e.g. X-Forwarded-For)"),
        ("credential: ['query:']", "not the name of a query parameter (e.g. query:access_token)"),
        (
            "confirm: {data: {a: '{{now}}'}}",
            "doubled braces have no meaning here (known: {stream_id} {now} {route} {claim.NAME})",
        ),
        (
            "confirm: {data: {a: [1, '{nwo}']}}",
            "{nwo} is not a placeholder (did you mean now? known: {stream_id} {now} {route} {claim.NAME})",
        ),
        (
            "confirm: {data: {a: '{claim.}'}}",
            "{claim.} is not a placeholder (write names with dots between them, e.g. {claim.user.id})",
        ),
        (
            "keepalive: {data: {a: '{claim.user.id}'}}",
            (
                "{claim.user.id} is not a placeholder (a claim is allowed only in `confirm.data` and "
                "`leave.publish.data`; "
                "known: {stream_id} {now} {route})"
            ),
        ),
    ],
)
def test_a_wrong_value_is_refused_in_plain_words(line: str, problem: str) -> None:
    (found,) = stream_problems(line)
    assert found.startswith(":8: routes[0].stream.")
    assert found.split(": ", 2)[2] == problem


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("{}", "origins: this key is required"),
        ("{origins: []}", "origins: must not be empty"),
        ("{origins: '*'}", "origins: must be a list (write it like [a, b])"),
        (
            "{origins: [https://a.com], credential: true}",
            "credential: unknown key (did you mean credentials?)",
        ),
        (
            "{origins: [https://a.com/]}",
            "origins[0]: an origin has no path (remove the / after the host and what follows)",
        ),
        (
            "{origins: ['null']}",
            (
                "origins[0]: `null` is the origin of every sandboxed page, so it names no page "
                "(write it as browsers send it, e.g. https://app.example.com)"
            ),
        ),
        *(
            (
                f"{{origins: ['{wrong}']}}",
                "origins[0]: not an origin (write it as browsers send it, e.g. https://app.example.com)",
            )
            for wrong in (
                "a.com",
                "https://",
                "https://*.a.com",
                "https://a.com:0",
                "https://a.com:65536",
                "https://u@a.com",
                "https://é.com",
                "https://a.com?b",
            )
        ),
    ],
)
def test_a_wrong_cors_section_is_refused_in_plain_words(lines: str, problem: str) -> None:
    (found,) = said(refused(VALID.replace("    stream:\n", f"    cors: {lines}\n")))
    assert found == f":7: routes[0].cors.{problem}"


def test_every_wrong_placeholder_is_found_at_its_place() -> None:
    problems = stream_problems("confirm:\n  data:\n    a: '{one}'\n    b:\n      - '{two}'\n")
    assert [problem.split(": ")[:2] for problem in problems] == [
        [":10", "routes[0].stream.confirm.data.a"],
        [":12", "routes[0].stream.confirm.data.b[0]"],
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "limits: {max_streams: 0}",
            "limits.max_streams: must be 1 or more (zero does not mean unlimited)",
        ),
        ("limits: {max_streams: -5}", "limits.max_streams: must be 1 or more"),
        (
            "limits: {max_streams: true}",
            "limits.max_streams: must be a whole number (without quotes and without a unit)",
        ),
        (
            "limits: {max_streams: off}",
            "limits.max_streams: must be a whole number (without quotes and without a unit)",
        ),
        (
            "trusted_proxies: [10.0.0.1/8]",
            "trusted_proxies[0]: the address has bits beyond its mask (set those bits to zero)",
        ),
        (
            "trusted_proxies: [nowhere]",
            "trusted_proxies[0]: not a network (write an address or a network, e.g. 10.0.0.0/8)",
        ),
        ("client_address: 'X Y'", "client_address: not the name of a header (e.g. X-Forwarded-For)"),
        ("listen: []", "listen: must not be empty"),
        ("listen:", "listen: has no value (leave the key out for its default)"),
        (
            "drain: {timeout: 5s}",
            "drain.spread: its default of 10s exceeds the timeout (write one, e.g. spread: 5s)",
        ),
        ("drain: {spread: off}", "drain.spread: cannot be off (write a short one, e.g. 1ms)"),
        ("admin: {pages: of}", "admin.pages: must be loopback, all or off (did you mean off?)"),
        ("drain: {timeout: 5s, spread: 6s}", "drain.spread: must not exceed the timeout of 5s"),
        (
            "logging: {level: inf}",
            "logging.level: must be debug, info, warning or error (did you mean info?)",
        ),
        (
            "listen: ['127.0.0.1:1', '127.0.0.1:1']",
            "listen[1]: another listener has this address (every listener needs its own address)",
        ),
        (
            "listen: '127.0.0.1:9090'",
            "admin: another listener has this address (every listener needs its own address)",
        ),
        (
            "admin: {listen: ':8080'}",
            "admin.listen: another listener has this address (every listener needs its own address)",
        ),
    ],
)
def test_a_wrong_value_at_the_top_is_refused_in_plain_words(line: str, problem: str) -> None:
    (found,) = said(refused(f"{line}\n{VALID}"))
    assert found.removeprefix(":1: ") == problem


@pytest.mark.parametrize("missing", ["upstreams", "routes"])
def test_what_must_be_written_is_asked_for(missing: str) -> None:
    keys = {"upstreams": "upstreams: {notify: {url: http://a}}", "routes": "routes: []"}
    del keys[missing]
    problems = said(refused("\n".join(keys.values()) + "\n"))
    assert f":1: {missing}: this key is required" in problems


def test_keys_missing_in_a_route_are_said_at_its_line() -> None:
    text = "upstreams: {a: {url: http://a}}\nroutes:\n  - name: x\n    match: {}\n"
    assert said(refused(text)) == [
        ":3: routes[0].upstream: this key is required",
        ":4: routes[0].match.path: this key is required",
    ]


def test_a_mistake_in_defaults_is_said_once_at_its_own_place() -> None:
    routes = VALID + "  - {name: more, match: {path: /more}, upstream: notify, stream: }\n"
    (problem,) = said(refused(f"defaults:\n  keepalive: {{interval: 15}}\n{routes}"))
    assert problem.startswith(":2: defaults.keepalive.interval: a duration needs a unit")


def test_a_value_from_the_environment_is_never_quoted() -> None:
    text = VALID + "      confirm: {data: {a: '${SECRET}'}}\n"
    (problem,) = said(refused(text, environ={"SECRET": "{hunter2}"}))
    assert "hunter2" not in problem
    assert "a value from the environment is not a placeholder" in problem


@pytest.mark.parametrize(
    "place",
    [
        "listen: ${S}",
        "admin: {listen: '${S}'}",
        "logging: {level: '${S}'}",
        "client_address: '${S} x'",
        "drain: {timeout: '${S}'}",
        "limits: ${S}",
    ],
)
def test_no_message_quotes_a_secret(place: str) -> None:
    problems = refused(f"{place}\n{VALID}", environ={"S": "hunter2-é"})
    assert "hunter2" not in " ".join(map(str, problems))


def test_a_value_that_is_broken_already_is_not_complained_about_twice() -> None:
    (problem,) = said(refused(VALID.replace("http://notify:6687", "'${NOPE}'")))
    assert "NOPE is not set" in problem


def test_an_upstream_without_a_route_is_only_a_warning() -> None:
    configured = loaded(VALID.replace("routes:", "  spare: {url: http://spare}\nroutes:"))
    (warning,) = configured.warnings
    assert warning.warning
    assert str(warning).endswith("config.yaml:3: warning: upstreams.spare: no route uses this upstream")


def test_defaults_that_nothing_uses_are_a_warning() -> None:
    configured = loaded("defaults: {keepalive: off}\n" + VALID.replace("    stream:\n", ""))
    (warning,) = configured.warnings
    assert "no route has a `stream`" in str(warning)


def test_a_refusal_of_head_that_can_never_happen_is_a_warning() -> None:
    text = VALID.replace("{path: /events}", "{path: /events, methods: [GET]}") + "      head: refuse\n"
    (warning,) = loaded(text).warnings
    assert "this route matches no HEAD request to refuse" in str(warning)


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none.yaml", "there is no such file"), (tmp_path, "is a directory")):
        with pytest.raises(ConfigurationError, match=message) as caught:
            load(path, environ={}, overrides=Overrides())
        assert caught.value.problems[0].file == str(path)


def test_an_upstream_alone_is_a_configuration() -> None:
    settings = from_upstream("http://127.0.0.1:9100", environ={}).settings
    (route,) = settings.routes
    assert (route.name, route.match.path, route.upstream) == ("default", "/*", "default")
    assert route.stream == stream_of("")
    assert settings.upstreams["default"].url == "http://127.0.0.1:9100"
