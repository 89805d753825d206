"""Install each row's library in a folder of its own, kept between runs in the user's cache.

Python gets a virtual environment, Node a folder with `node_modules`, Go a module with its program built. The
folders are made with the ordinary clients of the registries, and only once.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.clients.matrix import Language, Row
from tests.support.programs import require

__all__ = ["InstallError", "installed", "is_installed"]

PLAYERS = Path(__file__).parent / "players"
_NODE = "22.23.3"  # the newest libraries need 22; its npm package brings the program
_SECONDS = 300.0


class InstallError(Exception):
    """A client of a registry has failed; the text is what it said."""


def installed(row: Row) -> list[str]:
    """Install a row's library where it is not there yet; return the command that plays with it.

    The command takes `NAME=URL` arguments. Raises InstallError; skips a test without npm or Go.
    """
    match row.language:
        case Language.PYTHON:
            folder = _folder_of(row)
            _once(folder, lambda: _pip(folder, row.requires))
            return [str(folder / "bin" / "python"), str(PLAYERS / "python" / "driver.py"), row.player]
        case Language.NODE:
            folder = _folder_of(row)
            _once(folder, lambda: _npm(folder, row.requires))
            _copy_players(folder)
            return [str(_node()), str(folder / "driver.mjs"), row.player]
        case Language.GO:
            folder = _folder_of(row)
            _once(folder, lambda: _go(folder, row))
            return [str(folder / "player")]
        case Language.BROWSER:
            require("chromium", "google-chrome")
            return [sys.executable, "-m", f"tests.clients.players.{row.player}"]
        case Language.CURL:
            require("curl")
            return [sys.executable, str(PLAYERS / f"{row.player}.py")]


def is_installed(row: Row) -> bool:
    """Whether nothing has to be fetched to play a row."""
    return row.language in (Language.BROWSER, Language.CURL) or _whole(_folder_of(row))


def _pip(folder: Path, packages: tuple[str, ...]) -> None:
    _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
    python = str(folder / "bin" / "python")
    _run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-input", *packages])


def _npm(folder: Path, packages: tuple[str, ...]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", "--legacy-peer-deps")
    _run([str(require("npm")), "install", *quiet, "--prefix", str(folder), *packages])


def _copy_players(folder: Path) -> None:
    """Put the players of Node where their packages are, since Node looks for packages beside a module.

    Each takes its place in one step: another process may be reading it.
    """
    for source in (PLAYERS / "node").iterdir():
        fresh = folder / f"{source.name}.{os.getpid()}.{threading.get_ident()}"
        shutil.copy(source, fresh)
        fresh.replace(folder / source.name)


def _node() -> Path:
    """The program of that version."""
    kind = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"node-{platform.system().lower()}-{kind}"
    folder = _folder("node", (f"{name}@{_NODE}",))
    _once(folder, lambda: _npm(folder, (f"{name}@{_NODE}",)))
    return folder / "node_modules" / name / "bin" / "node"


def _go(folder: Path, row: Row) -> None:
    go = str(require("go"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    module = row.requires[0].partition("@")[0]
    for name in ("play", row.player):
        source = (PLAYERS / "go" / f"{name}.go").read_text(encoding="utf-8")
        (folder / f"{name}.go").write_text(source.replace("MODULE", module), encoding="utf-8")
    # Built without optimizations: that takes two thirds of the time.
    build = ["build", f"-gcflags={module}/...=-N -l", "-o", "player", "."]
    for arguments in (["mod", "init", "player"], ["get", *row.requires], build):
        _run([go, *arguments], folder)


def _folder(language: str, requires: tuple[str, ...]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (
        cache / "sse-keepalive-proxy" / "clients" / language / re.sub(r"[^\w.@=<-]", "_", "+".join(requires))
    )


def _folder_of(row: Row) -> Path:
    return _folder(row.language.lower(), row.requires)


def _once(folder: Path, install: Callable[[], None]) -> None:
    """Install into a folder unless that is done; another process waits meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _whole(folder):
            install()
            (folder / "installed").touch()


def _whole(folder: Path) -> bool:
    return (folder / "installed").is_file()


def _run(command: list[str], folder: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{' '.join(command)}: not done after {_SECONDS:.0f} s") from error
    if done.returncode:
        raise InstallError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
