"""The lines of README for notify-server, run as they stand in an environment of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.programs import free_port

ROOT = Path(__file__).parents[2]


def lines_for_notify_server() -> tuple[str, str, str]:
    """The command that installs, the one that checks, and the one that runs."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"needs two extras:\n\n```sh\n(.*?)```", readme, re.DOTALL)
    install, check, run = block.splitlines()
    return install, check, run


def is_ready(admin: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{admin}/readyz", timeout=20) as answer:
            return bool(answer.status == 200)
    except OSError:  # URLError is one, too
        return False


def done(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=False)


def test_with_its_extras_the_example_is_valid_and_serves_also_without_nats(tmp_path: Path) -> None:
    install, check, run = lines_for_notify_server()
    left_out = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "sse_keepalive_proxy", tmp_path / "sse_keepalive_proxy", ignore=left_out)
    for file in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "config.example.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / ".venv"], check=True)
    installed = done(install, tmp_path)
    if installed.returncode:
        reason = f"the package cannot be installed: {installed.stderr[-1000:]}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    checked = done(check, tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "sends event: NewMessage" in checked.stderr
    listen, admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
    addresses = {"SSE_KEEPALIVE_PROXY_LISTEN": listen, "SSE_KEEPALIVE_PROXY_ADMIN_LISTEN": admin}
    command = f"exec {run}"  # so that the signal reaches it
    log = tmp_path / "log"
    with (
        log.open("wb") as written,
        subprocess.Popen(
            command, shell=True, cwd=tmp_path, env={**os.environ, **addresses}, stderr=written
        ) as serving,
    ):
        given_up = time.monotonic() + 60.0
        while serving.poll() is None and time.monotonic() < given_up:
            if is_ready(admin) and "no connection to NATS" in log.read_text():
                break
            time.sleep(0.05)
        ready_without_nats = is_ready(admin)
        serving.send_signal(signal.SIGTERM)
        try:
            serving.wait(60)
        finally:
            serving.kill()
    assert serving.returncode == 0, log.read_text()
    assert ready_without_nats
    assert "no connection to NATS" in log.read_text()
