"""`check`: every mistake at once with its line, and nothing opened."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sse_keepalive_proxy
from sse_keepalive_proxy.cli import main
from sse_keepalive_proxy.config import load

VALID = """\
upstreams:
  notify: {url: http://notify-server:6687}
routes:
  - name: events
    match: {path: /events}
    upstream: notify
    stream:
"""
UNUSED = VALID.replace("routes:", "  spare: {url: http://spare:1}\nroutes:", 1)
SEVEN_MISTAKES = """\
listen: 127.0.0.1
limits:
  max_streams: 0
drain: {timeout: 5s, spread: 10s}
upstreams:
  notify: {url: ftp://notify}
routes:
  - name: Events
    match: {path: /events}
    upstream: notifi
    stream:
      keepalive:
        intervall: 15s
"""
LINES = {
    1: "listen: an address needs a port (write host:port, :port, [::1]:port or unix:/path)",
    3: "limits.max_streams: must be 1 or more (zero does not mean unlimited)",
    4: "drain.spread: must not exceed the timeout of 5s",
    6: "upstreams.notify.url: must begin with http://, https:// or unix:/ "
    "(write http://host:port, https://host or unix:/path)",
    8: "routes[0].name: not a valid name (use lower-case letters, digits, - and _; begin with a letter)",
    10: "routes[0].upstream: no upstream has this name (did you mean notify?)",
    13: "routes[0].stream.keepalive.intervall: unknown key (did you mean interval?)",
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(VALID)
    return path


def test_seven_mistakes_are_seven_lines_on_stderr_and_exit_78(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(SEVEN_MISTAKES)
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "error",
            "-m",
            "sse_keepalive_proxy",
            "check",
            "-c",
            "config.yaml",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(sse_keepalive_proxy.__file__).parents[1])},
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (78, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 7
    for line, (number, said) in zip(lines, LINES.items(), strict=True):
        assert line == f"config.yaml:{number}: {said}"


def test_a_valid_file_prints_nothing_and_exits_0(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(config)]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_warning_is_said_and_only_strict_makes_it_an_error(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(UNUSED)
    said = "upstreams.spare: no route uses this upstream\n"
    assert main(["check", "-c", str(config)]) == 0
    assert capsys.readouterr() == ("", f"{config}:3: warning: {said}")
    assert main(["check", "-c", str(config), "--strict"]) == 78
    assert capsys.readouterr() == ("", f"{config}:3: {said}")


def test_strict_has_nothing_against_a_file_without_warnings(config: Path) -> None:
    assert main(["check", "-c", str(config), "--strict"]) == 0


def test_print_shows_what_is_in_force_as_a_file_that_means_the_same(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "-c", str(config), "--print"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert yaml.safe_load(out)["routes"][0]["stream"]["keepalive"]["interval"] == "15s"
    (tmp_path / "shown.yaml").write_text(out)
    assert load(tmp_path / "shown.yaml", environ={}).settings == load(config, environ={}).settings


def test_print_shows_nothing_of_a_file_that_is_wrong(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(VALID + "nonsense: 1\n")
    assert main(["check", "-c", str(config), "--print"]) == 78
    assert capsys.readouterr().out == ""


def test_print_shows_the_environments_word_over_the_files(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("listen: 127.0.0.1:1111\n" + VALID)
    monkeypatch.setenv("SSE_KEEPALIVE_PROXY_LISTEN", "127.0.0.1:2222")
    assert main(["check", "-c", str(config), "--print"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["listen"] == ["127.0.0.1:2222"]


def test_the_file_may_be_named_by_the_environment(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSE_KEEPALIVE_PROXY_CONFIG", str(config))
    assert main(["check"]) == 0
    config.write_text(VALID + "nonsense: 1\n")
    assert main(["check"]) == 78
    assert capsys.readouterr().err.startswith(f"{config}:8: nonsense: unknown key")


def test_without_anything_to_check_the_command_line_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 2
    assert capsys.readouterr() == ("", "check: no configuration: give -c FILE\n")


def test_a_file_that_is_not_there_is_a_configuration_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "-c", str(tmp_path / "none.yaml")]) == 78
    assert capsys.readouterr() == ("", f"{tmp_path}/none.yaml: there is no such file\n")


def test_nothing_is_opened_connected_to_or_written(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken.setblocking(False)
        port = taken.getsockname()[1]
        (tmp_path / "config.yaml").write_text(
            f"listen: [127.0.0.1:{port}, 'unix:{tmp_path}/proxy']\n"
            + VALID.replace("http://notify-server:6687", f"http://127.0.0.1:{port}")
        )
        assert main(["check", "-c", str(tmp_path / "config.yaml")]) == 0
        with pytest.raises(BlockingIOError):
            taken.accept()
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_what_is_right_and_needs_a_word_is_a_note_that_strict_forgives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "config.yaml").write_text(
        VALID + "      early_commit: {after: 2s, methods: [GET, POST]}\n    cors: off\n"
    )
    assert main(["check", "--strict", "-c", str(file)]) == 0
    assert capsys.readouterr().err.startswith("note: routes[0].stream.early_commit.methods: POST gets ")
