"""`routes`: which route answers a URL, by the same rules as a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from sse_keepalive_proxy.cli import main

CONFIG = """\
upstreams:
  notify: {url: http://notify-server:6687}
  chat: {url: http://chat:80}
routes:
  - {name: events, match: {path: /events, methods: [GET]}, upstream: notify, stream: }
  - {name: tenant, match: {path: /api/*, host: "*.example.com"}, upstream: chat}
  - {name: posts, match: {path: /events, methods: [POST]}, upstream: chat}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/events"], "events  /events  stream  -> http://notify-server:6687"),
        (["/events?access_token=1#part"], "events  /events  stream  -> http://notify-server:6687"),
        (["https://any.host:8443/events"], "events  /events  stream  -> http://notify-server:6687"),
        (["/events", "--method", "POST"], "posts  /events  pass-through  -> http://chat:80"),
        (["/events", "--method", "post"], "posts  /events  pass-through  -> http://chat:80"),
        (["http://A.Example.com/api/x"], "tenant  /api/*  pass-through  -> http://chat:80"),
    ],
)
def test_the_route_that_answers_is_named_with_its_upstream(
    config: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["routes", *arguments, "-c", config]) == 0
    assert capsys.readouterr() == (f"{said}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["/"],
        ["http://host"],
        ["/events/"],
        ["/Events"],
        ["/%65vents"],
        ["//events"],
        ["/events", "--method", "DELETE"],
        ["/api/x"],  # that route wants a host
        ["http://example.com/api/x"],
    ],
)
def test_where_no_route_answers_it_says_so_and_exits_1(
    config: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["routes", *arguments, "-c", config]) == 1
    assert capsys.readouterr() == ("no route matches: 404\n", "")


def test_without_a_configuration_or_with_half_a_url_the_command_line_is_wrong(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["routes", "/events"]) == 2
    assert capsys.readouterr() == ("", "routes: no configuration: give -c FILE\n")
    assert main(["routes", "http://[::1/events", "-c", config]) == 2
    assert capsys.readouterr().err.startswith("routes: not a URL: ")
    with pytest.raises(SystemExit) as ended:
        main(["routes", "-c", config])
    assert ended.value.code == 2


def test_a_wrong_configuration_is_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(f"{CONFIG}nonsense: 1\n")
    assert main(["routes", "/events", "-c", str(tmp_path / "config.yaml")]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{tmp_path}/config.yaml:8: nonsense: unknown key" in err


def test_an_upstream_alone_is_a_configuration_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSE_KEEPALIVE_PROXY_UPSTREAM", "http://127.0.0.1:1")
    assert main(["routes", "/anything"]) == 0
    assert capsys.readouterr().out == "default  /*  stream  -> http://127.0.0.1:1\n"
