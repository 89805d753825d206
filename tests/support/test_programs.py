"""Finding and running real programs."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from tests.support.looping import run
from tests.support.programs import free_port, require, running
from tests.support.proxy_process import parse_metrics

_LISTENER = """
import http.server, sys
print("hello from the program", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()
"""


def test_a_program_that_is_there_is_found() -> None:
    assert require("sh").name == "sh"


def test_the_first_of_several_names_that_is_there_is_taken() -> None:
    assert require("no-such-program", "sh").name == "sh"


def test_a_missing_program_skips_the_test_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        require("no-such-program")


def test_a_missing_program_fails_the_test_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not installed"):
        require("no-such-program")


def test_a_program_runs_while_the_block_does_and_its_output_is_kept(tmp_path: Path) -> None:
    port = free_port()
    with running(
        [sys.executable, "-c", _LISTENER, str(port)], port=port, log_file=tmp_path / "log"
    ) as program:
        socket.create_connection(("127.0.0.1", port)).close()
        assert program.log == "hello from the program\n"
        os.kill(program.pid, 0)
    assert program.process.returncode is not None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_free_port_is_given_once_and_never_by_the_kernel() -> None:
    ports = [free_port() for _ in range(100)]
    assert len(set(ports)) == len(ports)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert listening.getsockname()[1] > max(ports)
        with socket.create_server(("127.0.0.1", free_port())) as taken:
            assert free_port() != taken.getsockname()[1]


def test_a_program_that_ends_at_once_is_reported_with_its_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('it broke')"]
    with (
        pytest.raises(RuntimeError, match="it broke"),
        running(command, port=free_port(), log_file=tmp_path / "log"),
    ):
        pytest.fail("not reached")


def test_prometheus_text_becomes_samples_by_name_and_labels() -> None:
    text = '# TYPE a counter\na_total{x="1",y="2"} 3\n# TYPE b gauge\nb 4.5\n'
    assert parse_metrics(text) == {
        ("a_total", frozenset({("x", "1"), ("y", "2")})): 3.0,
        ("b", frozenset()): 4.5,
    }


def test_a_task_left_behind_fails_the_test() -> None:
    async def leaky() -> None:
        task = asyncio.get_running_loop().create_task(asyncio.sleep(3600))
        task.set_name("forgotten")

    with pytest.raises(AssertionError, match="forgotten"):
        run(leaky())


def test_a_test_that_hangs_is_ended() -> None:
    with pytest.raises(TimeoutError):
        run(asyncio.sleep(3600), within=0.01)
