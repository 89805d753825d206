"""`run`, as users run it: a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import sse_keepalive_proxy
from sse_keepalive_proxy.cli import main, run
from sse_keepalive_proxy.errors import ConfigurationError, Problem
from sse_keepalive_proxy.observe import log
from tests.support.instance import EVENT_SOURCE, config
from tests.support.programs import free_port, running
from tests.support.proxy_process import running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, LAST_CHUNK, RawUpstream, chunk, response, stream_head
from tests.support.running import on_loop

RUN = [sys.executable, "-X", "dev", "-W", "error", "-m", "sse_keepalive_proxy", "run"]
NOWHERE = "http://127.0.0.1:1"
PREFIX = "SSE_KEEPALIVE_PROXY_"


def environment(**more: str) -> dict[str, str]:
    package = str(Path(sse_keepalive_proxy.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": package, "PYTHONUNBUFFERED": "1", **more}


def ended(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a `run` that does not get far."""
    done = subprocess.run(
        [*RUN, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env or environment(),
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


# What does not start.


def test_without_anything_to_serve_the_command_line_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert capsys.readouterr() == ("", "run: no configuration: give -c FILE or --upstream URL\n")


def test_a_wrong_configuration_is_78_with_every_problem_on_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config(NOWHERE, "keepalive: {interval: 15}").replace("/events", "events"))
    assert main(["run", "-c", str(path), "--listen", "nowhere"]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["--listen", f"{path}:4", f"{path}:7"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--upstream", "notify:6687"], "--upstream: must begin with http://, https:// or unix:/"),
        (["--upstream", NOWHERE, "--listen", "8080"], "--listen: an address needs a port"),
        (["--upstream", NOWHERE, "--admin-listen", "on"], "--admin-listen: an address needs a port"),
        (["-c", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
    ],
)
def test_a_wrong_flag_is_78_and_named(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments]) == 78
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--listen", "--admin-listen"])
def test_a_port_in_use_is_one_clear_line_and_exits_1(flag: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        free = {"--listen": "127.0.0.1:0", "--admin-listen": "127.0.0.1:0"}
        flags = [word for pair in {**free, flag: place}.items() for word in pair]
        code, out, err = ended("--upstream", NOWHERE, *flags, cwd=tmp_path)
    key = "admin.listen" if flag == "--admin-listen" else "listen"
    said = f"run: {key}: cannot listen on {place}: Address already in use; "
    lines = [line for line in err.splitlines() if "WARNING" not in line]  # this machine's descriptors
    assert (code, out, len(lines)) == (1, "", 1)
    assert lines[0].startswith(said)


def test_what_only_shows_at_the_start_is_78_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise ConfigurationError((Problem("changed while it was read", "identity.public_key_file"),))

    monkeypatch.setattr(run, "run_in_loop", refuse)
    monkeypatch.setattr(log, "configure", lambda *_, **__: None)
    (tmp_path / "config.yaml").write_text(config(NOWHERE))
    assert main(["run", "-c", str(tmp_path / "config.yaml")]) == 78
    assert capsys.readouterr().err == "identity.public_key_file: changed while it was read\n"


# What starts.


def test_an_upstream_is_enough_for_a_stream_with_every_default(tmp_path: Path) -> None:
    async def story() -> None:
        async with RawUpstream([GOT_REQUEST, stream_head(), chunk(b"data: 1\n\n"), LAST_CHUNK]) as upstream:
            with running_proxy(tmp_path, upstream=upstream.url) as proxy:
                async with await RawClient.connect(proxy.url) as client:
                    client.request("/any/path?at=all", EVENT_SOURCE)
                    await client.wait_response()
                    assert client.body.startswith(b"event: connection_confirmed\n")
                    assert client.body.endswith(b"data: 1\n\n")
                upstream.scripts = [[GOT_REQUEST, response("401 Unauthorized", b"no token")]]
                async with await RawClient.connect(proxy.url) as client:
                    client.request("/events", EVENT_SOURCE)
                    await client.wait_response()
                    assert (client.response.status, client.body) == (401, b"no token")
                proxy.wait_for_metric(
                    "sse_proxy_streams_closed_total", 1, route="default", reason="upstream_end"
                )
                assert proxy.stop() == 0
                assert "Traceback" not in proxy.log

    on_loop("asyncio", story(), within=150)


def test_on_the_loop_without_uvloop_it_serves_and_drains_alike(tmp_path: Path) -> None:
    port = free_port()
    code = (
        "import sys; sys.modules['uvloop'] = None; from sse_keepalive_proxy.cli import main; sys.exit(main())"
    )
    where = ["--listen", f"127.0.0.1:{port}", "--admin-listen", "off"]
    with running(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, "run", "--upstream", NOWHERE, *where],
        port=port,
        log_file=tmp_path / "log",
        env=environment(),
    ) as program:
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(30) == 0
        assert program.log.rstrip().endswith("stopped  cut=0")
        assert "Warning" not in program.log


def test_a_flag_stands_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    async def answer_by(name: str, arguments: list[str], env: dict[str, str]) -> bytes:
        folder = tmp_path / name
        folder.mkdir()
        with running_proxy(
            folder, config=config(by_file, before="logging: {format: text}"), arguments=arguments, env=env
        ) as proxy:
            async with await RawClient.connect(proxy.url) as client:
                client.request("/who")
                await client.wait_response()
            formats = {line.startswith("{") for line in proxy.log.splitlines()}
            assert formats == {"LOG_FORMAT" in "".join(env)}
            return client.body

    def server(name: bytes) -> RawUpstream:
        return RawUpstream([GOT_REQUEST, response("200 OK", name)])

    async def story() -> None:
        nonlocal by_file
        async with server(b"file") as file, server(b"environment") as variable, server(b"flag") as flag:
            by_file = file.url
            env = {f"{PREFIX}UPSTREAM": variable.url, f"{PREFIX}LOG_FORMAT": "json"}
            assert await answer_by("file", [], {}) == b"file"
            assert await answer_by("environment", [], env) == b"environment"
            assert await answer_by("flag", ["--upstream", flag.url], env) == b"flag"

    by_file = ""
    on_loop("asyncio", story(), within=150)


def test_everything_may_come_from_the_environment(tmp_path: Path) -> None:
    port, admin = free_port(), free_port()
    (tmp_path / "config.yaml").write_text(config("${UPSTREAM_OF_MINE:-http://127.0.0.1:2}"))
    env = environment(
        **{
            f"{PREFIX}CONFIG": "config.yaml",
            f"{PREFIX}LISTEN": f"127.0.0.1:{port}",
            f"{PREFIX}ADMIN_LISTEN": f"127.0.0.1:{admin}",
            f"{PREFIX}LOG_LEVEL": "error",
            "UPSTREAM_OF_MINE": NOWHERE,
        }
    )
    with running([*RUN], port=port, log_file=tmp_path / "log", env=env, cwd=tmp_path) as program:
        assert main(["healthcheck", "--url", f"http://127.0.0.1:{admin}/readyz"]) == 0
        program.process.terminate()
        assert program.process.wait(30) == 0
        assert program.log == ""  # the level holds for everything it says


def test_in_json_every_line_is_json_warnings_of_the_configuration_too(tmp_path: Path) -> None:
    text = config(NOWHERE, before="logging: {format: json}").replace(
        "upstreams: {", "upstreams: {spare: {url: 'http://127.0.0.1:2'}, "
    )
    with running_proxy(tmp_path, config=text) as proxy:
        assert proxy.stop() == 0
        lines = [json.loads(line) for line in proxy.log.splitlines()]
    warned = [line["message"] for line in lines if line["logger"] == "sse_keepalive_proxy.config"]
    assert warned == [f"{tmp_path}/config.yaml:2: upstreams.spare: no route uses this upstream"]
    assert [line["message"] for line in lines if line["level"] == "info"] == ["ready", "draining", "stopped"]
