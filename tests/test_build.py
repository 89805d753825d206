"""One place says whether the package is compiled."""

from __future__ import annotations

import importlib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import sse_keepalive_proxy
from sse_keepalive_proxy.build import BUILD, COMPILED, interpreted, word
from sse_keepalive_proxy.serve import server
from tests.support.instance import Instance, config
from tests.support.running import on_each_loop

NOWHERE = "http://127.0.0.1:1"


def compile_by_hand(package: Path, module: str) -> None:
    library = package / f"{module}{EXTENSION_SUFFIXES[0]}"
    library.parent.mkdir(exist_ok=True)
    library.touch()


def test_the_byte_path_is_modules_of_this_package() -> None:
    package = Path(sse_keepalive_proxy.__file__).parent
    assert all((package / f"{module}.py").is_file() for module in COMPILED)


def test_a_package_is_compiled_when_all_of_the_byte_path_is_and_interpreted_when_none_is(
    tmp_path: Path,
) -> None:
    assert (interpreted(tmp_path), word(interpreted(tmp_path))) == (COMPILED, "interpreted")
    first, *others = COMPILED
    for module in others:
        compile_by_hand(tmp_path, module)
    assert (interpreted(tmp_path), word(interpreted(tmp_path))) == ((first,), "partly compiled")
    compile_by_hand(tmp_path, first)
    assert (interpreted(tmp_path), word(interpreted(tmp_path))) == ((), "compiled")


def test_a_library_for_another_python_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "wire").mkdir()
    (tmp_path / "wire" / "block.cpython-35m-x86_64-linux-gnu.so").touch()
    assert "wire/block" in interpreted(tmp_path)


@on_each_loop
async def test_a_package_that_is_partly_compiled_warns_when_it_starts_and_names_what_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "BUILD", "partly compiled")
    monkeypatch.setattr(server, "INTERPRETED", ("live/relay", "wire/block"))
    async with Instance(config(NOWHERE)):
        (warning,) = [record for record in caplog.records if record.message == "partly compiled"]
    assert warning.levelname == "WARNING"
    assert warning.__dict__["fields"] == {"interpreted": "live/relay,wire/block"}


def test_no_class_of_a_compiled_module_stays_interpreted() -> None:
    """One that inherits from an interpreted class does, and what mypyc 2.4 makes of it corrupts memory."""
    if BUILD != "compiled":
        pytest.skip("is interpreted here: tests/test_compiled.py compiles it and runs this again")
    for name in COMPILED:
        module = importlib.import_module(f"sse_keepalive_proxy.{name.replace('/', '.')}")
        own = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
        assert [each for each in own if isinstance(each, type) and not hasattr(each, "__mypyc_attrs__")] == []


def test_this_package_says_what_it_is() -> None:
    assert word(interpreted(Path(sse_keepalive_proxy.__file__).parent)) == BUILD
