"""The house keeps its own rules: layers, purity, size, references, language, lint, types, generated pages."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import aiohttp.abc
import pytest
from aiohttp import web

from docs.generate.__main__ import FILES
from sse_keepalive_proxy.http.connection import ClientConnection
from sse_keepalive_proxy.http.frontend import WrittenResponse

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sse_keepalive_proxy"
MODULES = sorted(PACKAGE.rglob("*.py"))
GENERATORS = sorted((ROOT / "docs" / "generate").glob("*.py"))

# Imports run from left to right only; what shares a rank does not know of each other, unless allowed below.
RANKS = {
    "build": 0,
    "environment": 0,
    "errors": 0,
    "net": 1,
    "wire": 1,
    "stream": 2,
    "config": 3,
    "bridge": 4,
    "observe": 4,
    "http": 4,
    "live": 5,
    "observe.admin": 6,
    "gateway": 6,
    "serve": 7,
    "demo": 8,
    "cli": 9,
}
SOURCES = sorted(
    path
    for place in (
        "sse_keepalive_proxy",
        "tests",
        "bench",
        "deploy",
        "docs/generate",
        "config.example.yaml",
        "hatch_build.py",
    )
    for path in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*"))
    if path.is_file() and path != Path(__file__) and path.suffix not in (".pyc", ".so", ".lock", ".png")
)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
CITED = {
    "behaviour.md": ROOT / "docs" / "reference" / "behaviour.md",
    "facts.md": ROOT / "docs" / "design" / "facts.md",
}
OUTSIDE = re.compile(r"FACTS \d|DESIGN [A-C]\d?\b|CLIENTS \d|\blaws? \d|\brules? \d", re.IGNORECASE)
# Phrases that readers of English as a second language stumble over, and where they are gone for good.
RIDDLES = re.compile(
    r"\b(told|but for|who comes|whoever|nobody|anew|be it|all the same|of nothing|who asks|somebody|everybody"
    r"|behind (its|the|a|an) (live )?client|nor (is|are|does|do|has))\b",
    re.IGNORECASE,
)
UNREAD_PAGES = {"performance.md"}
PLAIN = [
    path
    for path in [*SOURCES, *PAGES]
    if path.is_relative_to(ROOT / "deploy")
    or path == ROOT / "config.example.yaml"
    or (path.suffix == ".md" and path.name not in UNREAD_PAGES)
    or path.is_relative_to(PACKAGE)
    or path in GENERATORS
]
IMPURE = {"asyncio", "aiohttp", "time", "random", "socket", "ssl", "logging", "prometheus_client", "os"}
LONGEST = 500


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def rank(module: str) -> int | None:
    best = max((key for key in RANKS if module == key or module.startswith(f"{key}.")), key=len, default=None)
    return None if best is None else RANKS[best]


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


# The package itself and __main__ stand above the layers.
@pytest.mark.parametrize("path", [path for path in MODULES if rank(name_of(path)) is not None], ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    module = name_of(path)
    mine = rank(module)
    assert mine is not None
    for name in imported(path):
        if not name.startswith("sse_keepalive_proxy."):
            continue
        target = name.removeprefix("sse_keepalive_proxy.")
        theirs = rank(target)
        if theirs is None:
            continue
        same_folder = target.partition(".")[0] == module.partition(".")[0]
        assert theirs < mine or same_folder, f"{module} must not import {target}"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if name_of(path).partition(".")[0] in ("wire", "stream")], ids=name_of
)
def test_pure_packages_stay_pure(path: Path) -> None:
    assert {name.partition(".")[0] for name in imported(path)}.isdisjoint(IMPURE)


@pytest.mark.parametrize("path", [*MODULES, *GENERATORS], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_can_be_read_in_one_sitting_and_says_what_it_owns(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert ast.get_docstring(ast.parse(text)), "a module says what it owns"


# aiohttp by its documented names only: the package must run on any version that keeps its promises.

DOCUMENTED = {"aiohttp", "aiohttp.abc", "aiohttp.typedefs", "aiohttp.web"}
EXTENDING = {"http.connection", "http.frontend", "observe.admin"}
"""Where `self` may be an object of aiohttp."""

OVERRIDDEN = {
    "connection_lost", "connection_made", "data_received", "eof_received", "handle_error", "pause_reading",
    "pause_writing", "resume_writing",
}  # fmt: skip
"""What `ClientConnection` overrides on purpose: asyncio's callbacks, and the answer to what is no request."""


def imports_aiohttp(path: Path) -> bool:
    return any(name.partition(".")[0] == "aiohttp" for name in imported(path))


def names_of(kind: type) -> set[str]:
    """Every name that instances of `kind` have, those of its bases and their slots included."""
    slots = {name for base in kind.__mro__ for name in vars(base).get("__slots__", ())}
    return {*dir(kind), *slots}


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


AIOHTTPS_OWN = {
    name
    for module in (aiohttp, aiohttp.abc, web)
    for kind in vars(module).values()
    if isinstance(kind, type) and kind.__module__.startswith("aiohttp.")
    for name in names_of(kind)
    if private(name)
}


@pytest.mark.parametrize("path", [path for path in MODULES if imports_aiohttp(path)], ids=name_of)
def test_aiohttp_is_used_by_its_documented_names(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = {alias.name for alias in node.names if alias.name.partition(".")[0] == "aiohttp"}
            assert modules <= DOCUMENTED
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "aiohttp":
            assert node.module in DOCUMENTED
            assert not [alias.name for alias in node.names if private(alias.name)]
        elif isinstance(node, ast.Attribute) and private(node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id == "self"
            if not own or name_of(path) in EXTENDING:
                assert node.attr not in AIOHTTPS_OWN, f"line {node.lineno}: {node.attr} is aiohttp's own"


@pytest.mark.parametrize(
    ("ours", "theirs", "overridden"),
    [
        (ClientConnection, web.RequestHandler, OVERRIDDEN),
        (WrittenResponse, web.StreamResponse, {"keep_alive", "prepare", "write_eof"}),
    ],
    ids=["ClientConnection", "WrittenResponse"],
)
def test_what_extends_aiohttp_overrides_public_methods_only(
    ours: type, theirs: type, overridden: set[str]
) -> None:
    added = {name for base in ours.__mro__ if base not in theirs.__mro__ for name in vars(base)}
    shared = {name for name in added & names_of(theirs) if not name.startswith("__")}
    assert shared - {"_abc_impl"} == overridden  # which is Python's


def anchors(page: Path) -> set[str]:
    """The anchors of a Markdown page: its headings as GitHub names them, and every `id`."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.+)$", text, flags=re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def local(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=local)
def test_no_reference_is_a_number_or_points_out_of_the_repository(path: Path) -> None:
    assert OUTSIDE.findall(path.read_text(encoding="utf-8")) == []


def test_every_fact_and_rule_that_the_code_cites_exists() -> None:
    known = {name: anchors(page) for name, page in CITED.items()}
    cited = [
        (local(path), name, anchor)
        for path in SOURCES
        for name, anchor in re.findall(r"\b(\w+\.md)#([\w-]+)", path.read_text(encoding="utf-8"))
    ]
    assert len(cited) > 40
    assert [each for each in cited if each[2] not in known.get(each[1], ())] == []


def test_every_page_that_the_code_names_exists() -> None:
    named = [
        (local(path), name)
        for path in SOURCES
        for name in re.findall(r"\bdocs/[\w/.-]+\.\w+", path.read_text(encoding="utf-8"))
    ]
    assert [each for each in named if not (ROOT / each[1]).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=local)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        if name.startswith(("https:", "http:", "mailto:")):
            continue
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


NAMING_PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "design" / "README.md"]
"""The pages that say where something is."""


def definitions(path: Path) -> set[str]:
    """Every class and function of a module, methods as `Class.method`."""
    defined = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            methods = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
            defined |= {node.name, *(f"{node.name}.{each.name}" for each in methods)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defined.add(node.name)
    return defined


@pytest.mark.parametrize("page", NAMING_PAGES, ids=local)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    wanting, room = [], ""
    for name in re.findall(r"`([\w/]+\.py|[\w/]+/)`", page.read_text(encoding="utf-8")):
        room = name if name.endswith("/") else room  # a section may be named without its folder
        places = [base / name for base in (PACKAGE, PACKAGE / room, ROOT)]
        wanting += [] if any(place.exists() for place in places) else [name]
    assert wanting == []


def test_every_function_that_the_design_page_names_is_in_the_file_beside_it() -> None:
    rows = re.findall(
        r"^\| .* \| `([\w/]+\.py)` \| (.*) \|$", NAMING_PAGES[1].read_text(encoding="utf-8"), re.MULTILINE
    )
    named = [(file, name) for file, cell in rows for name in re.findall(r"`([\w.]+)`", cell)]
    assert len(named) > 40
    assert [each for each in named if each[1] not in definitions(PACKAGE / each[0])] == []


@pytest.mark.parametrize("path", PLAIN, ids=local)
def test_the_language_is_plain(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [found[0] for found in RIDDLES.finditer(text)] == []


@pytest.mark.parametrize("path", FILES, ids=local)
def test_a_generated_file_is_what_the_code_says(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path](), "run `make docs`"


def test_ci_and_make_run_the_test_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = next(line for line in readme.splitlines() if ".venv/bin/python -m pytest" in line)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert f"\t{command}" in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()


def test_readme_tutorial_and_make_start_the_demo_alike() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = next(line for line in readme.splitlines() if line.endswith("sse-keepalive-proxy demo"))
    assert command in (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8").splitlines()
    assert f"\t{command}" in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    assert " -q" not in command, "pip says what it does meanwhile"


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["lint", "format", "types"],
)
def test_the_tools_find_nothing(command: list[str]) -> None:
    if find_spec(command[0]) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{command[0]} is missing: install the dev extra")
        pytest.skip(f"needs {command[0]}: pip install -e '.[dev]'")
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
