"""What the figures were measured on: cores, descriptors, versions. Reads only."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["ROOT", "Cores", "choose_cores", "commit", "cpu_model", "describe", "descriptor_limit"]

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the proxy that is measured, and that of the load: the same where there is only one."""

    proxy: int
    load: int


def choose_cores() -> Cores:
    """The first core that this process may use, and the first that does not share its hardware."""
    allowed = sorted(os.sched_getaffinity(0))
    proxy = allowed[0]
    siblings = _siblings(proxy)
    others = [core for core in allowed[1:] if core not in siblings] or allowed[1:] or [proxy]
    return Cores(proxy, others[0])


def _siblings(core: int) -> set[int]:
    file = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        parts = file.read_text().strip().split(",")
    except OSError:
        return {core}
    ranges = [[int(end) for end in part.split("-")] for part in parts]
    return {number for ends in ranges for number in range(ends[0], ends[-1] + 1)}


def descriptor_limit() -> int:
    """How many descriptors a process may have once it has raised its limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard


def cpu_model() -> str:
    """The processor's name, as the kernel tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def commit(checkout: Path) -> str:
    """The checkout's commit, and whether the package has changed since; `unknown` without a repository."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short=10", "HEAD")
        if not head or Path(git("rev-parse", "--show-toplevel")).resolve() != checkout.resolve():
            return "unknown"
        changed = git("status", "--porcelain", "--", "sse_keepalive_proxy")
    except OSError:
        return "unknown"
    return f"{head} with changes" if changed else head


def describe(checkout: Path, cores: Cores) -> dict[str, str]:
    """All of it, as label and value, in the order in which it is shown."""
    allowed = len(os.sched_getaffinity(0))
    apart = "proxy and load on one each" if cores.proxy != cores.load else "proxy and load share one"
    return {
        "processor": f"{cpu_model()}, {allowed} cores, {apart}",
        "kernel": f"{platform.system()} {platform.release()}",
        "descriptors": f"{descriptor_limit():,}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {_loop()}",
        "commit": commit(checkout),
    }


def _loop() -> str:
    try:
        return f"uvloop {version('uvloop')}"
    except PackageNotFoundError:
        return "asyncio's own loop"
