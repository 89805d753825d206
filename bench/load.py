"""Builds the load generator and the bare relay from `c/`, and runs the generator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Running, on_core

__all__ = ["GCC_HINT", "Load", "LoadFailed", "Reading", "build"]

GCC_HINT = "the load generator is written in C and needs gcc (Debian: apt-get install gcc libc6-dev)"

_SOURCES = Path(__file__).parent / "c"
_PROGRAMS = {"load": ("load.c", "tests.c", "client.c", "origin.c", "meter.c"), "relay": ("relay.c",)}
_LONGEST = 120


class LoadFailed(Exception):
    """The generator could not be built, or gave no figures."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one run of the generator counted. Seconds of time or CPU, KiB, microseconds where it says so."""

    seconds: float
    cpu_s: float
    load_cpu_s: float
    events: int
    bytes: int
    comments: int
    skipped: int
    p50_us: float
    p99_us: float
    opened: int
    open_s: float
    open_cpu_s: float
    rss_before_kib: int
    rss_after_kib: int
    event_s: float
    event_cpu_s: float
    refused: int
    recovered: int
    left: int
    reopened_s: float
    reopened_p50_us: float
    faults: dict[str, int]

    @property
    def fault_count(self) -> int:
        """Everything that must not happen, added up."""
        return sum(self.faults.values())

    @property
    def fault_kinds(self) -> str:
        """Which, as in `missing 3, status 1`; empty without any."""
        return ", ".join(f"{kind} {count:,}" for kind, count in self.faults.items() if count)


def build(folder: Path) -> dict[str, Path]:
    """Compile into `folder`; the programs by name. Raises LoadFailed, with what is missing or wrong."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise LoadFailed(GCC_HINT)
    built = {}
    for name, sources in _PROGRAMS.items():
        target = folder / name
        files = [str(_SOURCES / source) for source in sources]
        done = subprocess.run(
            [compiler, "-O2", "-Wall", "-Wextra", "-o", str(target), *files],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise LoadFailed(f"gcc: {done.stderr.strip()[:500]} ({GCC_HINT})")
        built[name] = target
    return built


@dataclass(frozen=True, slots=True)
class Load:
    """The generator on its core, with the port of its origin."""

    program: Path
    origin: int
    core: int

    def run(
        self,
        mode: str,
        target: Running | None,
        *flags: object,
        marked: Callable[[], None] = lambda: None,
    ) -> Reading:
        """Load `target` (None: no proxy at all) and count. Raises LoadFailed.

        `marked` is called when the generator says that the part to watch begins.
        """
        pids = target.pids() if target else []
        command = [str(self.program), mode, "--origin", str(self.origin)]
        command += ["--target", str(target.port if target else self.origin)]
        command += ["--pids", ",".join(map(str, pids)), "--limit", str(_LONGEST), *map(str, flags)]
        with on_core(self.core):
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        try:
            return self._read(process, marked)
        finally:
            process.kill()
            process.wait()

    def _read(self, process: subprocess.Popen[str], marked: Callable[[], None]) -> Reading:
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr:
            for line in process.stdout:
                if line == "mark\n":
                    marked()
                else:
                    sys.stderr.write(process.stderr.read())  # what it found odd, with all that it counted
                    return Reading(**json.loads(line))
            said = process.stderr.read().strip()
        code = process.wait()
        why = said or ("it took too long" if code < 0 else "no word of it")
        raise LoadFailed(f"the load ended with {code}: {why[:300]}")
