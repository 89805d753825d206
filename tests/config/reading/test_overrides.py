"""Flags over the environment over the file, and who is named when they are wrong."""

from __future__ import annotations

import pytest

from sse_keepalive_proxy.config import Overrides, from_upstream
from sse_keepalive_proxy.errors import ConfigurationError
from tests.config.writing import VALID, loaded, refused, said

PREFIX = "SSE_KEEPALIVE_PROXY_"


def test_a_flag_stands_over_the_environment_and_that_over_the_file() -> None:
    text = f"listen: 127.0.0.1:1\n{VALID}"
    environ = {f"{PREFIX}LISTEN": "127.0.0.1:2"}
    assert str(loaded(text).settings.listen[0]) == "127.0.0.1:1"
    assert str(loaded(text, environ=environ).settings.listen[0]) == "127.0.0.1:2"
    flag = Overrides(listen="127.0.0.1:3")
    assert str(loaded(text, environ=environ, overrides=flag).settings.listen[0]) == "127.0.0.1:3"


def test_a_variable_set_to_nothing_counts_as_not_set() -> None:
    assert loaded(VALID, environ={f"{PREFIX}LISTEN": ""}).settings.listen == loaded(VALID).settings.listen


def test_logging_can_be_set_by_the_environment() -> None:
    environ = {f"{PREFIX}LOG_LEVEL": "debug", f"{PREFIX}LOG_FORMAT": "json"}
    for text in (VALID, f"logging:\n{VALID}", f"logging: {{access: false}}\n{VALID}"):
        logging = loaded(text, environ=environ).settings.logging
        assert (logging.level, logging.format) == ("debug", "json")


@pytest.mark.parametrize("admin", ["", "admin:\n", "admin: off\n", "admin: {pages: all}\n"])
def test_an_admin_address_turns_the_admin_listener_on(admin: str) -> None:
    settings = loaded(admin + VALID, overrides=Overrides(admin_listen=":9999")).settings
    assert settings.admin is not None
    assert str(settings.admin.listen) == ":9999"
    assert (settings.admin.pages == "all") is ("all" in admin)


def test_the_admin_listener_can_be_turned_off_by_its_override() -> None:
    assert loaded(VALID, overrides=Overrides(admin_listen="off")).settings.admin is None


def test_a_wrong_override_is_named_instead_of_a_line() -> None:
    overrides = Overrides(listen="8080", upstream="http://x?y")
    environ = {f"{PREFIX}LOG_FORMAT": "yaml", f"{PREFIX}ADMIN_LISTEN": "x:y"}
    assert sorted(said(refused(VALID, environ=environ, overrides=overrides))) == [
        "--listen: an address needs a port (write host:port, :port, [::1]:port or unix:/path)",
        "--upstream: a query in the URL is not supported (remove the ? and what follows)",
        "SSE_KEEPALIVE_PROXY_ADMIN_LISTEN: a port is a number from 0 to 65535",
        "SSE_KEEPALIVE_PROXY_LOG_FORMAT: must be text or json",
    ]


def test_problems_of_overrides_come_before_those_of_the_file() -> None:
    first, second = said(refused(f"limits: 3\n{VALID}", overrides=Overrides(listen="x")))
    assert first.startswith("--listen: ")
    assert second.startswith(":1: limits: ")


def test_an_upstream_override_takes_the_place_of_the_only_url() -> None:
    settings = loaded(VALID, overrides=Overrides(upstream="http://other")).settings
    assert {name: upstream.url for name, upstream in settings.upstreams.items()} == {"notify": "http://other"}
    assert settings.routes[0].name == "events"


def test_an_upstream_override_keeps_the_other_keys_of_the_upstream() -> None:
    text = VALID.replace("{url: http://notify:6687}", "{url: http://notify:6687, connect_timeout: 1s}")
    settings = loaded(text, environ={f"{PREFIX}UPSTREAM": "http://other"}).settings
    assert settings.upstreams["notify"].connect_timeout == 1.0


def test_without_upstreams_the_override_is_what_the_routes_name() -> None:
    text = "routes:\n  - {name: a, match: {path: /*}, upstream: bench, stream: }\n"
    settings = loaded(text, overrides=Overrides(upstream="http://127.0.0.1:9100")).settings
    assert settings.upstreams["bench"].url == "http://127.0.0.1:9100"


def test_without_upstreams_and_routes_the_override_makes_the_default_route() -> None:
    settings = loaded("listen: :1\n", overrides=Overrides(upstream="http://other")).settings
    assert (settings.routes[0].name, settings.routes[0].stream is not None) == ("default", True)


def test_several_upstreams_cannot_be_overridden() -> None:
    text = VALID.replace("routes:", "  spare: {url: http://spare}\nroutes:")
    (problem,) = said(refused(text, overrides=Overrides(upstream="http://other")))
    assert problem.startswith("--upstream: the file has several upstreams: notify, spare (")


def test_an_upstream_alone_ignores_the_variable_it_stands_over() -> None:
    settings = from_upstream("http://flag", environ={f"{PREFIX}UPSTREAM": "http://variable"}).settings
    assert settings.upstreams["default"].url == "http://flag"


@pytest.mark.parametrize(
    ("environ", "named"), [({}, "--upstream: "), ({f"{PREFIX}UPSTREAM": "x"}, f"{PREFIX}UPSTREAM: ")]
)
def test_a_wrong_upstream_alone_names_where_it_came_from(environ: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_upstream("x", environ=environ)
    assert str(caught.value).startswith(named)
