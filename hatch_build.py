"""Compiles the modules that every event and every opening of a stream passes, when the package is built.

With mypyc, from the same source that is interpreted otherwise: what may differ is the time it takes
(docs/design/decisions/0013). Where that cannot be done, for want of a C compiler most often, the package is
built as it is written, and a warning says so (pip shows it with -v). SSE_PROXY_PURE turns it off.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "sse_keepalive_proxy"
COMPILED = [
    f"{folder}/{module}"
    for folder, modules in {
        "gateway": (
            *("answer", "app", "forward", "forwarded", "passthrough", "routes", "streaming"),
            "upstream_request",
        ),
        "http": (
            *("attempts", "body", "chunked", "connection", "dialer", "exchange", "headers", "request"),
            *("request_reader", "response", "responses"),
        ),
        "live": ("downstream", "relay", "route", "stream"),
        "net": ("connect", "listener", "poller", "tasks", "tcp", "timers", "transport"),
        "observe": ("line", "metrics", "registry", "route_metrics"),
        "stream": ("lifecycle", "messages"),
        "wire": ("block", "framing"),
    }.items()
    for module in modules
]
"""Those that every event passes, and of those that every opening passes the ones that pay most. No class in
them may inherit from an interpreted one: what mypyc 2.4 makes of that corrupts memory.
"""

_LAST_WORDS = 2000
"""Characters of what the compiler said that are repeated."""


class CompileHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's `custom` build hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, into the wheel or, for an editable install (`version`), beside the sources."""
        root = Path(self.root)
        if version == "editable":
            for old in (*root.glob("*.so"), *(root / PACKAGE).rglob("*.so")):
                old.unlink()  # or it would be found in the place of a source that has changed since
        if os.environ.get("SSE_PROXY_PURE"):
            return
        into = tempfile.mkdtemp(prefix=PACKAGE)
        self._into = into
        done = subprocess.run(
            [sys.executable, __file__, into], cwd=root, check=False, text=True, capture_output=True
        )
        if done.returncode:
            said = (done.stdout + done.stderr)[-_LAST_WORDS:]
            self.app.display_warning(f"{said}\nnot compiled, which costs speed and nothing else; see above")
            return
        built = Path(into, "lib")
        for module in built.rglob("*.so"):
            place = module.relative_to(built)
            if version == "editable":
                shutil.copy(module, root / place)
            else:
                build_data["force_include"][str(module)] = str(place)
        if version != "editable":
            build_data.update(pure_python=False, infer_tag=True)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """What was compiled is in its place now."""
        shutil.rmtree(getattr(self, "_into", ""), ignore_errors=True)


def compile_into(folder: Path) -> None:
    """Write shared libraries under `folder`/lib, laid out as the modules are."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    modules = [f"{PACKAGE}/{module}.py" for module in COMPILED]
    # Types are checked elsewhere; here the libraries that are used need not even be installed.
    lenient = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    extensions = mypycify(
        [*lenient, *modules], opt_level="2", debug_level="0", group_name=PACKAGE, target_dir=str(folder / "c")
    )
    distribution = Distribution({"name": PACKAGE, "ext_modules": extensions})
    command = distribution.get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "temp")
    distribution.run_command("build_ext")


if __name__ == "__main__":
    compile_into(Path(sys.argv[1]))
