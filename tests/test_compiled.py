"""The modules that are compiled when the package is installed, and the package without them."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

if find_spec("hatchling") is None and not os.environ.get("CI"):
    pytest.skip("needs hatchling: pip install -e '.[dev]'", allow_module_level=True)
hatch_build = importlib.import_module("hatch_build")
INTERPRETED = [f"tests/{each}" for each in ("wire", "net", "live/test_relay.py")]
MODULES = [module.replace("/", ".") for module in hatch_build.COMPILED]


def build(folder: Path, **environ: str) -> tuple[str, str]:
    """The name of the wheel that a build makes, and what the build said."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT, env={**os.environ, **environ}, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel.name, done.stdout + done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_it_is_compiled_where_it_can_be(module: str) -> None:
    file = importlib.import_module(f"sse_keepalive_proxy.{module}").__file__
    if file is None or not file.endswith(".so"):
        if os.environ.get("CI"):
            pytest.fail(
                f"{file} is interpreted: the build could not compile it; `pip install -v -e .` tells why"
            )
        pytest.skip("needs a C compiler when the package is installed (Debian: gcc, libc6-dev, python3-dev)")


@pytest.mark.parametrize("module", MODULES)
def test_no_class_in_it_stays_interpreted(module: str) -> None:
    """One that inherits from an interpreted class does, and what mypyc makes of it corrupts memory."""
    compiled = importlib.import_module(f"sse_keepalive_proxy.{module}")
    if not (compiled.__file__ or "").endswith(".so"):
        pytest.skip("is not compiled")
    classes = [each for each in vars(compiled).values() if isinstance(each, type)]
    own = [each for each in classes if each.__module__ == compiled.__name__]
    assert not [each for each in own if not hasattr(each, "__mypyc_attrs__")]


def test_without_a_c_compiler_the_package_is_built_as_it_is_written_and_the_build_says_so(
    tmp_path: Path,
) -> None:
    wheel, said = build(tmp_path, CC="false")
    assert wheel.endswith("-py3-none-any.whl")
    assert "not compiled" in said


def test_compiling_can_be_turned_off(tmp_path: Path) -> None:
    wheel, said = build(tmp_path, SSE_PROXY_PURE="1")
    assert wheel.endswith("-py3-none-any.whl")
    assert "not compiled" not in said


def test_interpreted_it_does_the_same(tmp_path: Path) -> None:
    """The tests of what is compiled, on a copy that is not."""
    for folder in ("sse_keepalive_proxy", "tests"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    for file in ("pyproject.toml", "config.example.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    script = "import sse_keepalive_proxy.wire.framing as m; print(m.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert Path(where.stdout.strip()) == tmp_path / "sse_keepalive_proxy" / "wire" / "framing.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *INTERPRETED],
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
