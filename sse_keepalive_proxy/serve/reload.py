"""A configuration that is read anew while the proxy serves: all of it takes effect, or nothing does
(behaviour.md#all-or-nothing-reload).

Owns when the file is read again, what a new start has to wait for, and what is said about it. How a good
configuration takes the place of the one in force is the server's business (`adopt`).
"""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sse_keepalive_proxy.config import Loaded, Overrides, Settings, load
from sse_keepalive_proxy.errors import ConfigurationError, Problem
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.serve.watch import Watch

__all__ = ["Reloader", "Source", "say"]

logger = logging.getLogger("sse_keepalive_proxy.config")

_POLL = 1.0
"""Seconds between two looks at the files; a change is taken up at the second look that finds it the same."""

_HEAD_LIMITS = ("max_request_header", "request_header_timeout")
"""The limits that aiohttp is given once, for every connection."""


class Source:
    """The file at `path`, read with the flags and the environment of the start.

    Made before the file is read for the first time, it misses no change: `watch` knows what is in it now.
    """

    def __init__(self, path: Path, *, environ: Mapping[str, str], overrides: Overrides) -> None:
        self.path = path
        self._environ, self._overrides = dict(environ), overrides
        self.watch = Watch([path])

    def load(self) -> Loaded:
        """What it says now. Raises `ConfigurationError`."""
        if _is_pipe(self.path):  # it has said what it had to say, and would be waited for
            hint = "start with a file that can be read again"
            raise ConfigurationError((Problem("is no ordinary file", hint=hint, file=str(self.path)),))
        return load(self.path, environ=self._environ, overrides=self._overrides)


class Reloader:
    """Has the configuration of `source` (None: there is no file) read anew when somebody asks, and, with
    `watch: true`, when a file has changed.

    `in_force` gives the configuration that is served by. `adopt` puts another in its place; it raises
    `ConfigurationError`, having changed nothing. `later` is the loop's `call_later`.
    """

    def __init__(
        self,
        source: Source | None,
        *,
        in_force: Callable[[], Settings],
        adopt: Callable[[Settings], None],
        metrics: Metrics,
        later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
    ) -> None:
        self._source, self._metrics = source, metrics
        self._in_force, self._adopt, self._later = in_force, adopt, later
        self._timer: asyncio.TimerHandle | None = None
        self._serves = self._asked = self._over = False
        if source is not None:
            source.watch.follow((source.path, *in_force().files))
        self._contents = {} if source is None else source.watch.contents

    def start(self) -> None:
        """The server serves: reload from now on, and at once where somebody has asked before."""
        self._serves = True
        self._arm()
        if self._asked:
            self.reload()

    def stop(self) -> None:
        """The server drains: nothing takes effect any more."""
        self._over = True
        self._arm()

    def reload(self) -> None:
        """Read the configuration and go by it, or say every problem and go on by the one in force."""
        if self._over:
            logger.info("the configuration is not reloaded: the proxy is draining")
        elif not self._serves:
            self._asked = True
        elif self._source is None:
            logger.info("there is nothing to reload: the proxy was started without a configuration file")
        else:
            self._metrics.reloaded(success=self._reloaded(self._source))
            self._arm()

    def _reloaded(self, source: Source) -> bool:
        try:
            self._take_up(source)
        except ConfigurationError as error:
            _say_refused(error.problems, str(source.path))
            return False
        except Exception:
            logger.exception(
                "the configuration is not reloaded: the proxy failed over it; please report this",
                extra={"fields": {"file": str(source.path)}},
            )
            return False
        return True

    def _take_up(self, source: Source) -> None:
        source.watch.take_note()
        loaded, before = source.load(), self._in_force()
        settings, held_back = _hold_back(before, loaded.settings)
        source.watch.follow((source.path, *settings.files))  # before they are read by those who need them
        self._adopt(settings)
        old, self._contents = self._contents, source.watch.contents
        new_key = any(path in old and old[path] != self._contents[path] for path in settings.files)
        changes = _changes(before, settings, ["public_key_file"] if new_key else [], held_back)
        logger.info("configuration reloaded", extra={"fields": changes})
        say(loaded.warnings)
        if held_back:
            logger.warning(
                "what is new in these keys needs a restart; until then they stay as they were",
                extra={"fields": {"keys": ",".join(held_back)}},
            )

    def _arm(self) -> None:
        wanted = self._source is not None and self._serves and not self._over and self._in_force().watch
        if wanted and self._timer is None:
            self._timer = self._later(_POLL, self._poll)
        elif not wanted and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _poll(self) -> None:
        self._timer = None
        if self._source is not None and self._source.watch.poll():
            self.reload()
        self._arm()


def _is_pipe(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False  # `load` says what is wrong
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def say(warnings: Iterable[Problem]) -> None:
    """Log what about a valid configuration is hardly meant."""
    for warning in warnings:
        logger.warning("%s", replace(warning, warning=False))


def _say_refused(problems: Sequence[Problem], file: str) -> None:
    for problem in problems:
        logger.error("%s", problem)
    logger.error(
        "the configuration is not reloaded: the last good one stays in force until this is mended",
        extra={"fields": {"file": file, "problems": len(problems)}},
    )


def _hold_back(before: Settings, after: Settings) -> tuple[Settings, list[str]]:
    """`after` with all that only a start can change left as it was `before`; the keys where that matters."""
    old, new = before.limits, after.limits
    held = [key for key in ("listen", "admin") if getattr(before, key) != getattr(after, key)]
    held += [f"limits.{key}" for key in _HEAD_LIMITS if getattr(old, key) != getattr(new, key)]
    limits = new.model_copy(update={key: getattr(old, key) for key in _HEAD_LIMITS})
    update = {"listen": before.listen, "admin": before.admin, "limits": limits}
    return after.model_copy(update=update), held


def _changes(
    before: Settings, after: Settings, files: Sequence[str], held_back: Sequence[str]
) -> dict[str, str]:
    """What is different, in few words and without a value. `files`: the keys that name a file in which
    something else is now; `held_back`: what has changed and takes effect at the next start only.
    """
    old, new = {route.name: route for route in before.routes}, {route.name: route for route in after.routes}
    changed = [f"routes.{name}" for name in _different(old, new) if name in old and name in new]
    if [name for name in old if name in new] != [name for name in new if name in old]:
        changed.append("routes:order")
    changed += [f"upstreams.{name}" for name in _different(before.upstreams, after.upstreams)]
    # `defaults` have been merged into the routes.
    rest = [key for key in Settings.model_fields if key not in ("routes", "upstreams", "defaults")]
    changed += [key for key in rest if getattr(before, key) != getattr(after, key)]
    changed += files
    told = {
        "routes_added": [name for name in new if name not in old],
        "routes_removed": [name for name in old if name not in new],
        "changed": changed,
    }
    if not any(told.values()):
        told["changed"] = ["nothing"]
    told["needs_restart"] = list(held_back)
    return {what: ",".join(names) for what, names in told.items() if names}


def _different(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]
