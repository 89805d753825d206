"""Reload the configuration while the proxy serves: all of it takes effect, or nothing does
(behaviour.md#all-or-nothing-reload).

This module decides when to read the file and which keys need a restart, and logs the result. The server's
`adopt` puts a valid configuration in force.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sse_keepalive_proxy.config import Loaded, Settings
from sse_keepalive_proxy.errors import ConfigurationError, Problem
from sse_keepalive_proxy.net.tasks import in_slices, spawn
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.serve.source import Source, load_in_child

__all__ = ["Reloader", "say"]

logger = logging.getLogger("sse_keepalive_proxy.config")

_POLL = 1.0
"""Seconds between two polls of the files. A change is used after two polls with the same result."""

_LISTENERS = ("listen", "reuse_port", "admin")
"""The keys of the listeners, which only a start reads."""

_NAMED = 10
"""The number of names in one field of the log. A reload may change thousands of routes."""

_HEAD_LIMITS = ("max_request_header", "request_header_timeout")
"""The limits that aiohttp gets once, at the start."""


class Reloader:
    """Reload the configuration of `source` (None: no file) on request and, with `watch: true`, when a file
    has changed. A request during a reload starts one more reload after it.

    `in_force` returns the current configuration. `adopt` replaces it, or raises `ConfigurationError` without
    any change. `later` is the loop's `call_later`. `read` gets the source and the format of the log. It
    returns a configuration or raises `ConfigurationError`.
    """

    def __init__(
        self,
        source: Source | None,
        *,
        in_force: Callable[[], Settings],
        adopt: Callable[[Settings], Awaitable[None]],
        metrics: Metrics,
        later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
        read: Callable[[Source, str], Awaitable[Loaded]] = load_in_child,
    ) -> None:
        self._source, self._metrics = source, metrics
        self._in_force, self._adopt, self._later, self._read = in_force, adopt, later, read
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._serves = self._requested = self._over = False
        if source is not None:
            source.watch.follow((source.path, *in_force().files))
        self._contents = {} if source is None else source.watch.contents

    def start(self) -> None:
        """Allow reloads from now on, and reload at once if one was requested before."""
        self._serves = True
        self._arm()
        if self._requested:
            self.reload()

    async def stop(self) -> None:
        """End reloads because the server drains. Cancel a reload in progress."""
        self._over = True
        self._arm()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def reload(self) -> None:
        """Request a reload. On problems, log all of them and keep the current configuration."""
        if self._over:
            logger.info("the configuration is not reloaded: the proxy is draining")
        elif not self._serves:
            self._requested = True
        elif self._source is None:
            logger.info("there is nothing to reload: the proxy was started without a configuration file")
        else:
            self._requested = True
            self._begin(self._source)

    def _begin(self, source: Source) -> None:
        if self._task is None:
            self._task = spawn(self._look(source))

    async def _look(self, source: Source) -> None:
        """Reload if a file has changed or a reload was requested, and again after requests meanwhile."""
        try:
            if not self._requested and await asyncio.to_thread(source.watch.poll):
                self._requested = True
            while self._requested:
                self._requested = False
                self._metrics.reloaded(success=await self._reloaded(source))
        finally:
            self._task = None
            self._arm()

    async def _reloaded(self, source: Source) -> bool:
        # The new objects stay. A search for cycles in them would stop the loop: 0.4 s for 10,000 routes.
        gc.disable()
        try:
            await self._take_up(source)
        except ConfigurationError as error:
            await _say_refused(error.problems, str(source.path))
            return False
        except Exception:
            logger.exception(
                "the configuration is not reloaded because of an error in the proxy; please report this",
                extra={"fields": {"file": str(source.path)}},
            )
            return False
        else:
            return True
        finally:
            gc.freeze()
            gc.enable()

    async def _take_up(self, source: Source) -> None:
        await asyncio.to_thread(source.watch.take_note)
        before = self._in_force()
        loaded = await self._read(source, before.logging.format)
        settings, held_back = _hold_back(before, loaded.settings)
        # Note the files before `adopt` reads them.
        await asyncio.to_thread(source.watch.follow, (source.path, *settings.files))
        await self._adopt(settings)
        old, self._contents = self._contents, source.watch.contents
        new = {
            key for path, key in settings.files.items() if path in old and old[path] != self._contents[path]
        }
        changes = await _changes(before, settings, sorted(new), held_back)
        logger.info("configuration reloaded", extra={"fields": changes})
        await in_slices(loaded.warnings, say)
        if held_back:
            logger.warning(
                "changes of these keys need a restart; until then the old values stay in force",
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
        if self._source is not None:
            self._begin(self._source)


def say(warnings: Iterable[Problem]) -> None:
    """Log warnings about a valid configuration."""
    for warning in warnings:
        logger.warning("%s", replace(warning, warning=False))


async def _say_refused(problems: Sequence[Problem], file: str) -> None:
    await in_slices(problems, _say_wrong)
    logger.error(
        "the configuration is not reloaded: the last valid one stays in force until the problems are fixed",
        extra={"fields": {"file": file, "problems": len(problems)}},
    )


def _say_wrong(problems: Iterable[Problem]) -> None:
    for problem in problems:
        logger.error("%s", problem)


def _hold_back(before: Settings, after: Settings) -> tuple[Settings, list[str]]:
    """Return `after` with the values of `before` for keys that need a restart, and those that differ."""
    old, new = before.limits, after.limits
    held = [key for key in _LISTENERS if getattr(before, key) != getattr(after, key)]
    update: dict[str, Any] = {key: getattr(before, key) for key in _LISTENERS}
    if (before.tls is None) != (after.tls is None):
        held.append("tls")
        update["tls"] = before.tls
    held += [f"limits.{key}" for key in _HEAD_LIMITS if getattr(old, key) != getattr(new, key)]
    update["limits"] = new.model_copy(update={key: getattr(old, key) for key in _HEAD_LIMITS})
    return after.model_copy(update=update), held


async def _changes(
    before: Settings, after: Settings, files: Sequence[str], held_back: Sequence[str]
) -> dict[str, str]:
    """Return the changed keys without their values. `files`: the keys of files with new contents.
    `held_back`: the changed keys that need a restart.
    """
    old, new = {route.name: route for route in before.routes}, {route.name: route for route in after.routes}
    kept: list[str] = [name for name in old if name in new]
    changed: list[str] = []
    await in_slices(
        kept, lambda part: changed.extend(f"routes.{name}" for name in part if old[name] != new[name])
    )
    if kept != [name for name in new if name in old]:
        changed.append("routes:order")
    upstreams = {**before.upstreams, **after.upstreams}
    changed += [
        f"upstreams.{name}" for name in upstreams if before.upstreams.get(name) != after.upstreams.get(name)
    ]
    # `defaults` have been merged into the routes.
    rest = [key for key in Settings.model_fields if key not in ("routes", "upstreams", "defaults")]
    changed += [key for key in rest if getattr(before, key) != getattr(after, key)]
    changed += files
    changes = {
        "routes_added": [name for name in new if name not in old],
        "routes_removed": [name for name in old if name not in new],
        "changed": changed,
    }
    if not any(changes.values()):
        changes["changed"] = ["nothing"]
    changes["needs_restart"] = list(held_back)
    return {what: _some(names) for what, names in changes.items() if names}


def _some(names: Sequence[str]) -> str:
    """Return the first of `names`, and how many more there are."""
    more = len(names) - _NAMED
    return ",".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
