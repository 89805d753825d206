"""The two builds of this proxy, each in an environment of its own: compiled and interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.peers import COMPILED, INTERPRETED

__all__ = ["InstallFailed", "install"]

_COMPILE = "SSE_PROXY_COMPILE"
_LAST_WORDS = 2000


class InstallFailed(Exception):
    """A build cannot be installed, or is not what it should be."""


def install(checkout: Path, folder: Path, say: Callable[[str], None]) -> dict[str, Path]:
    """Install the checkout twice under `folder`; returns the Python of each by the build's name. Takes one to
    two minutes. Raises `InstallFailed`.
    """
    pythons = {}
    for name in (COMPILED, INTERPRETED):
        say(f"{name}: is being installed")
        place = folder / name
        python = place / "bin" / "python"
        env = {key: value for key, value in os.environ.items() if key != _COMPILE}
        if name == COMPILED:
            env[_COMPILE] = "1"
        _run([sys.executable, "-m", "venv", str(place)], env)
        _run([str(python), "-m", "pip", "install", "-q", str(checkout)], env)
        if any(place.rglob("sse_keepalive_proxy/**/*.so")) != (name == COMPILED):
            raise InstallFailed(f"the build that should be {name} is not")
        pythons[name] = python
    return pythons


def _run(command: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(command, env=env, check=False, text=True, capture_output=True)
    if done.returncode:
        said = (done.stdout + done.stderr)[-_LAST_WORDS:]
        raise InstallFailed(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
