"""The command line as a whole: what it is called, what it refuses, how it is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sse_keepalive_proxy
from sse_keepalive_proxy import __version__
from sse_keepalive_proxy.build import BUILD
from sse_keepalive_proxy.cli import configuration, main
from tests.support.programs import free_port

VERSION = f"sse-keepalive-proxy {__version__} ({BUILD})\n"
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.yaml"
COMMANDS = ["run", "check", "routes", "healthcheck", "demo"]
MODULE = [sys.executable, "-X", "dev", "-W", "error", "-m", "sse_keepalive_proxy"]


def started(command: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(sse_keepalive_proxy.__file__).parents[1])},
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_the_module_is_the_command() -> None:
    assert started([*MODULE, "--version"]) == (0, VERSION, "")
    code, out, err = started([*MODULE, "routes", "/"])
    assert (code, out) == (2, "")
    assert err.startswith("routes: ")


def test_so_is_the_script_that_is_installed() -> None:
    script = shutil.which("sse-keepalive-proxy", path=str(Path(sys.executable).parent))
    assert script is not None, "the package is not installed beside this Python: pip install -e '.[dev]'"
    assert started([script, "--version"]) == (0, VERSION, "")


def test_the_version_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr() == (VERSION, "")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^    {command}\s+\S", out, re.MULTILINE)


def test_the_pages_name_no_other_command() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        named = re.findall(r"sse-keepalive-proxy ([a-z]+)", page.read_text(encoding="utf-8"))
        assert set(named) <= set(COMMANDS), page.name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_refuses_a_flag_it_does_not_know(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(command, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: sse-keepalive-proxy {command} ")
    given = ["/"] if command == "routes" else []
    assert exit_code(command, *given, "--nonsense") == 2
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["serve"],
        ["doctor"],  # of a later version: not there rather than silent
        ["--verbose"],
        ["run", "--up", "http://127.0.0.1:1"],  # no abbreviations: a later flag could take them
        ["check", "--config"],
        ["--vers"],
    ],
)
def test_a_wrong_command_line_is_said_and_exits_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: sse-keepalive-proxy")


def test_ctrl_c_ends_a_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(configuration, "load_or_say", interrupted)
    assert main(["check", "-c", "any.yaml"]) == 130
    assert capsys.readouterr() == ("", "")


def loaded(*command: str) -> set[str]:
    """The top-level modules that Python imports for `command`, without those that it always imports."""

    def tops(*arguments: str) -> set[str]:
        _, _, err = started([sys.executable, "-X", "importtime", *arguments])
        lines = [line for line in err.splitlines() if line.startswith("import time:")]
        return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}

    return tops("-m", "sse_keepalive_proxy", *command) - tops("-c", "pass")


def of_libraries(modules: set[str]) -> set[str]:
    return modules - sys.stdlib_module_names - {"sse_keepalive_proxy"}


@pytest.mark.parametrize("command", [["--version"], ["--help"], ["run", "--help"], ["demo", "--help"]])
def test_what_says_something_of_the_program_imports_no_library_and_opens_nothing(command: list[str]) -> None:
    modules = loaded(*command)
    assert of_libraries(modules) == set()
    assert modules.isdisjoint({"asyncio", "http", "logging", "socket", "ssl"})
    assert "argparse" in modules


def test_a_health_check_imports_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container runs one every ten seconds."""
    monkeypatch.setenv("SSE_KEEPALIVE_PROXY_CONFIG", str(EXAMPLE))  # overridden by the variable
    monkeypatch.setenv("SSE_KEEPALIVE_PROXY_ADMIN_LISTEN", f"0.0.0.0:{free_port()}")
    modules = loaded("healthcheck")
    assert of_libraries(modules) == set()
    assert modules.isdisjoint({"asyncio", "logging"})
    assert "http" in modules


@pytest.mark.parametrize("command", [["check"], ["routes", "/"]])
def test_what_reads_a_configuration_imports_what_reads_it_and_no_server(command: list[str]) -> None:
    modules = loaded(*command, "-c", str(EXAMPLE))
    assert {"pydantic", "yaml"} <= modules
    assert modules.isdisjoint({"aiohttp", "asyncio", "httptools", "prometheus_client", "uvloop"})
