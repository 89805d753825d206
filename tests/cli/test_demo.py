"""`demo` as users run it: a process of its own."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sse_keepalive_proxy
from sse_keepalive_proxy.cli import main
from tests.support.programs import Program, require, running

DEMO = [sys.executable, "-X", "dev", "-W", "error", "-m", "sse_keepalive_proxy", "demo"]
BARE = (
    "import sys; sys.modules.update(dict.fromkeys(['jmespath', 'jwt', 'nats'])); "
    "from sse_keepalive_proxy.cli import main; sys.exit(main())"
)
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("SSE_KEEPALIVE_PROXY_")},
    "PYTHONPATH": str(Path(sse_keepalive_proxy.__file__).parents[1]),
    "PYTHONUNBUFFERED": "1",
    "SSE_KEEPALIVE_PROXY_LISTEN": "an environment that must not matter",
}


def test_once_tells_the_story_and_exits_0_also_with_the_base_dependencies_alone(tmp_path: Path) -> None:
    require("nats-server")
    commands = [
        [*DEMO, "--once", "--port", "0"],
        [sys.executable, "-c", BARE, "demo", "--once", "--port", "0"],
    ]
    processes = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=ENVIRONMENT
        )
        for command in commands
    ]
    for process, scenes in zip(processes, (6, 5), strict=True):
        out, err = process.communicate(timeout=180)
        assert (process.returncode, err) == (0, ""), out
        *_, verdict = lines = out.splitlines()
        assert verdict == f"healed: {scenes} times dead directly and alive through the proxy."
        silence, event, restart, tabs, offline, *incident = lines[-scenes - 2 : -2]
        lasts = r"\d+(?:\.\d s| ms)"
        dead = rf"  silence +dead: no bytes in {lasts} +alive: byte after {lasts}, \d+ pings"
        assert re.fullmatch(dead, silence)
        gap = f"gap of {lasts}"
        assert re.fullmatch(
            rf"  first event +dead: not received, then closed +alive: {gap}, 2 received", event
        )
        assert re.fullmatch(rf"  upstream restart +dead: broken off +alive: {gap}, 1 received", restart)
        assert re.fullmatch(r"  two tabs +dead: 4 of 4 ended the other +alive: 2 and 2 of 2 received", tabs)
        assert re.fullmatch(r"  offline +dead: 0 of 2 missed received +alive: 3 of 3 received", offline)
        if scenes == 6:
            assert incident == [
                "  incident          dead: 0 of 100 confirmed         alive: 100 of 100 confirmed"
            ]
            for metric in ('outcome="filled"} 200', 'outcome="dropped"} 100'):
                assert f"sse_proxy_bridge_events_total{{{metric}" in out
        else:
            assert "this scene is not played: it needs two extras: pip install '.[jwt,nats]'" in out
        for text in (
            'sse_proxy_upstream_stalled_streams{route="events"} 1',
            "named Generic, so onmessage does not receive it",
            "upstream ends the stream after one event (its own bug)",
            'sse_proxy_upstream_eof_after_first_event_total{route="events"}',
            "upstream stops, and starts again 2.5 s later",
        ):
            assert text in out


def wait_for(program: Program, pattern: str, within: float = 60.0) -> re.Match[str]:
    """Wait until a pattern is in the program's log, another process's: so by looking again and again."""
    give_up_at = time.monotonic() + within
    while (found := re.search(pattern, program.log)) is None:
        assert program.process.poll() is None, program.log
        assert time.monotonic() < give_up_at, program.log
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_live_view_names_its_page_and_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with running(
        [*DEMO, "--port", "0"], port=None, log_file=tmp_path / "demo.log", env=ENVIRONMENT
    ) as program:
        port = int(wait_for(program, r"open http://127\.0\.0\.1:(\d+)/demo/\n")[1])
        wait_for(program, "through the proxy: alive, .* onmessage received 1")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/demo/")
        answer = connection.getresponse()
        assert (answer.status, b"EventSource" in answer.read()) == (200, True)
        connection.close()
        program.process.send_signal(number)
        assert program.process.wait(30) == 0
        assert "Traceback" not in program.log


def test_a_port_that_was_asked_for_and_is_taken_is_said_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*DEMO, "--once", "--port", str(port)],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            timeout=90,
            check=False,
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"demo: listen: cannot listen on 127.0.0.1:{port}: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("port", ["x", "-1", "65536", "²", ""])
def test_an_invalid_port_is_a_wrong_command_line(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", f"--port={port}"])
    assert ended.value.code == 2
    assert "not a port" in capsys.readouterr().err


def test_no_other_command_pays_for_the_demo() -> None:
    code = "import sys, sse_keepalive_proxy.cli; sys.exit('sse_keepalive_proxy.demo.stage' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 0
