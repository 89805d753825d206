"""Load the configuration from a file, the environment and the flags, or report every problem at once.

Owns the order of the steps: read, override, merge, check, type. It reads only the given file and the key
files that it names. Its results are frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from sse_keepalive_proxy.config.reading import check
from sse_keepalive_proxy.config.reading.document import read_document
from sse_keepalive_proxy.config.reading.overrides import NO_OVERRIDES, Overrides, apply, single_route
from sse_keepalive_proxy.config.reading.translate import place, translate
from sse_keepalive_proxy.config.reading.tree import Entry, merge_defaults, plain
from sse_keepalive_proxy.config.sections.settings import Settings
from sse_keepalive_proxy.environment import UPSTREAM_VARIABLE
from sse_keepalive_proxy.errors import ConfigurationError, Problem

__all__ = ["Loaded", "from_upstream", "load"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration and its warnings."""

    settings: Settings
    warnings: tuple[Problem, ...] = ()


def load(path: Path, *, environ: Mapping[str, str], overrides: Overrides = NO_OVERRIDES) -> Loaded:
    """Load the file at `path`. Flags override the environment, and the environment overrides the file.

    Raises `ConfigurationError` with every problem: those of flags and variables first, then in the order of
    lines.
    """
    file = str(path)
    root, problems = read_document(_content(path, file), file=file, environ=environ)
    return _settled(root, problems, file, environ, overrides)


def from_upstream(url: str, *, environ: Mapping[str, str], overrides: Overrides = NO_OVERRIDES) -> Loaded:
    """Return a configuration without a file: one route `default` that sends every path to `url`.

    Raises `ConfigurationError` with every problem. Each names its flag or variable.
    """
    # `url` has already been chosen from the flag and the variable.
    quiet = {name: value for name, value in environ.items() if name != UPSTREAM_VARIABLE}
    return _settled(single_route(url, environ), [], "", quiet, replace(overrides, upstream=None))


def _content(path: Path, file: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        problem = Problem("there is no such file", file=file)
    except IsADirectoryError:
        problem = Problem("is a directory, not a file", file=file)
    except PermissionError:
        problem = Problem("cannot be read: this user has no permission", file=file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a valid path"
        problem = Problem(f"cannot be read: {reason}", file=file)
    raise ConfigurationError((problem,))


def _settled(
    root: Entry, problems: list[Problem], file: str, environ: Mapping[str, str], overrides: Overrides
) -> Loaded:
    root, more = apply(root, environ, overrides)
    root = merge_defaults(root)
    problems = [*problems, *more]
    problems += [place(fault, root, way, file) for way, fault in check.disagreements(root)]
    settings = None
    try:
        settings = Settings.model_validate(plain(root))
    except ValidationError as error:
        problems += translate(error, root, file)
    if settings is None or problems:
        # A mistake in `defaults` is found again in every route that it was merged into.
        raise ConfigurationError(tuple(sorted(dict.fromkeys(problems), key=lambda found: found.line)))
    found = [place(fault, root, way, file, warning=True) for way, fault in check.warnings(root)]
    return Loaded(settings, tuple(sorted(found, key=lambda warning: warning.line)))
