"""Compiles the modules that cost most with mypyc where `SSE_PROXY_COMPILE=1` asks for it; nothing otherwise.

The source is the same either way (docs/design/decisions/0016-libraries.md). A compile that fails ends the
build.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "sse_keepalive_proxy"


class CompileHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's `custom` build hook."""

    def dependencies(self) -> list[str]:
        """Return what a build needs beside hatchling: mypyc, and only when it compiles."""
        groups = self.metadata.config["dependency-groups"]
        return list(groups["compile"]) if _wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into the wheel or, when `version` is `editable`, beside the sources.

        Raises `SystemExit` when mypyc refuses the source, setuptools' `CompileError` when the C compiler
        fails.
        """
        root, editable = Path(self.root), version == "editable"
        if editable:
            for old in (*root.glob("*.so"), *(root / PACKAGE).rglob("*.so")):
                old.unlink()  # or it would be imported in the place of a source that has changed since
        if not _wanted():
            return
        # Goes with this process at the latest: `finalize` is not called when the compile fails.
        self._folder = tempfile.TemporaryDirectory(prefix=PACKAGE)
        libraries = Path(self._folder.name, "lib")
        _compile_into(libraries.parent, root)
        for library in libraries.rglob("*.so"):
            place = library.relative_to(libraries)
            if editable:
                shutil.copy(library, root / place)
            else:
                build_data["force_include"][str(library)] = str(place)
        if not editable:
            build_data.update(pure_python=False, infer_tag=True)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove the folder of the compile: the wheel is written."""
        if _wanted():
            self._folder.cleanup()


def _compile_into(folder: Path, root: Path) -> None:
    """Compile these modules of the package in `root` into shared libraries under `folder`/lib."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    modules = runpy.run_path(str(root / PACKAGE / "build.py"))["COMPILED"]
    _say(f"compiling {len(modules)} modules with mypyc, usually in less than a minute")
    began = time.monotonic()
    # Types are checked elsewhere; here the libraries that are used need not even be installed.
    options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    extensions = mypycify(
        [*options, *(str(root / PACKAGE / f"{module}.py") for module in modules)],
        opt_level="2", debug_level="0", group_name=PACKAGE, target_dir=str(folder / "c"),
    )  # fmt: skip
    _say(f"compiling the C code of that ({time.monotonic() - began:.0f} s so far)")
    command = Distribution({"name": PACKAGE, "ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "temp")
    command.ensure_finalized()
    command.run()
    _say(f"compiled in {time.monotonic() - began:.0f} s")


def _wanted() -> bool:
    return os.environ.get("SSE_PROXY_COMPILE", "") not in ("", "0")


def _say(message: str) -> None:
    sys.stderr.write(f"{PACKAGE}: {message}\n")  # stdout is held back where it is a pipe, as pip's is
