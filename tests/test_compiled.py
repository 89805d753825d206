"""The package compiled: what a build needs for it, what it says, and that streams then do what they did.

`SSE_PROXY_COMPILE=1 pip install .` with the newest Python here and with this one, each into an environment of
its own. There the tests of the compiled modules run, with the newest one also those of what is built on them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from sse_keepalive_proxy.build import COMPILED

ROOT = Path(__file__).parent.parent
COMPILE = {"SSE_PROXY_COMPILE": "1"}
CORE = ["tests/wire", "tests/stream", "tests/net", "tests/live"]
"""The tests of the compiled modules by themselves."""

TESTS = [
    *CORE,
    *(
        "tests/http",
        "tests/gateway/test_upstream_request.py",
        "tests/gateway/test_forwarded.py",
        "tests/gateway/test_stream_request.py",
        "tests/observe/test_registry.py",
    ),
    *("tests/integration/test_streams.py", "tests/integration/test_stream_ends.py", "tests/test_build.py"),
]
"""These, and what is built on them."""


def done(*command: object, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `command`, its stderr in its stdout, with `environ`, and without this Python's search path."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", *COMPILE)}
    return subprocess.run(
        [str(each) for each in command], cwd=cwd, env={**env, **environ}, check=False, text=True,
        timeout=3000, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def skip_or_fail(reason: str) -> None:
    """Skip this test; in CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def hatchling(*command: object, **environ: str) -> subprocess.CompletedProcess[str]:
    if find_spec("hatchling") is None:
        skip_or_fail("needs hatchling: pip install -e '.[dev]'")
    return done(sys.executable, *command, **environ)


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_a_build_needs_mypyc_when_it_compiles_and_nothing_else(kind: str) -> None:
    script = f"import hatchling.build; print(*hatchling.build.get_requires_for_build_{kind}())"
    assert "mypy" not in hatchling("-c", script).stdout
    assert re.search(r"mypy\[mypyc\]>=\S+", hatchling("-c", script, **COMPILE).stdout)


@pytest.mark.parametrize("environ", [{}, {"SSE_PROXY_COMPILE": ""}, {"SSE_PROXY_COMPILE": "0"}])
def test_nothing_is_compiled_unasked(environ: dict[str, str], tmp_path: Path) -> None:
    built = hatchling("-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, CC="false", **environ)
    assert built.returncode == 0, built.stdout
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "mypyc" not in built.stdout


def test_a_compile_that_fails_ends_the_build(tmp_path: Path) -> None:
    built = hatchling("-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, CC="false", **COMPILE)
    assert built.returncode != 0
    assert f"compiling {len(COMPILED)} modules" in built.stdout
    assert not [*tmp_path.iterdir()]


def pythons() -> Iterator[tuple[tuple[int, ...], Path]]:
    """The versions of CPython that the package claims and this machine has with their headers."""
    claimed = re.findall(r"Python :: 3\.(\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    script = (
        "import ensurepip, os, sys, sysconfig, venv; os.stat(sysconfig.get_path('include') + '/Python.h');"
        "print(sys.executable, *sys.version_info[:2])"
    )
    for minor in claimed:
        named = shutil.which(f"python3.{minor}")
        for candidate in ([Path(named)] if named else []) + [*pyenv.glob(f"versions/3.{minor}.*/bin/python")]:
            found = done(candidate, "-c", script)
            if found.returncode == 0:
                path, *version = found.stdout.split()
                yield tuple(map(int, version)), Path(path)


def newest() -> Path:
    """The newest Python here, or the one that runs these tests if none is newer."""
    version, python = max(pythons(), default=(sys.version_info[:2], Path(sys.executable)))
    return python if version > sys.version_info[:2] else Path(sys.executable)


def test_compiled_it_does_the_same_on_the_newest_python_here(tmp_path: Path) -> None:
    same_on(newest(), tmp_path, TESTS)


def test_compiled_its_core_does_the_same_on_this_python(tmp_path: Path) -> None:
    if newest() == Path(sys.executable):
        pytest.skip("this Python is the newest one here, which runs all of these tests")
    same_on(Path(sys.executable), tmp_path, CORE)


def same_on(python: Path, folder: Path, tests: list[str]) -> None:
    """Install the package, compiled, into a new environment of `python`; run `tests` there."""
    there = folder / "venv" / "bin"
    made = done(python, "-m", "venv", folder / "venv")
    assert made.returncode == 0, made.stdout
    installed = done(there / "pip", "install", "-v", f"{ROOT}[test]", **COMPILE)
    if installed.returncode:
        hint = "`SSE_PROXY_COMPILE=1 pip install .` needs a C compiler, Python's headers and the network"
        skip_or_fail(f"{hint}\n{installed.stdout[-2000:]}")
    assert re.search(r"compiled in \d+ s", installed.stdout)
    assert "(compiled)" in done(there / "sse-keepalive-proxy", "--version", cwd=folder).stdout
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "config.example.yaml"):
        shutil.copy(ROOT / file, folder)
    tested = done(there / "python", "-m", "pytest", "-q", "-n", "2", *tests, cwd=folder)
    assert tested.returncode == 0, tested.stdout
