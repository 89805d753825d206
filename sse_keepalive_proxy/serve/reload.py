"""A configuration that is read anew while the proxy serves: all of it takes effect, or nothing does
(behaviour.md#all-or-nothing-reload).

Owns when the file is read again, what a new start has to wait for, and what is said about it. How a good
configuration takes the place of the one in force is the server's business (`adopt`).
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
"""Seconds between two looks at the files; a change is taken up at the second look that finds it the same."""

_LISTENERS = ("listen", "reuse_port", "admin")
"""The keys by which a start listens."""

_HEAD_LIMITS = ("max_request_header", "request_header_timeout")
"""The limits that aiohttp is given once, for every connection."""


class Reloader:
    """Has the configuration of `source` (None: there is no file) read anew when somebody asks, and, with
    `watch: true`, when a file has changed. Whoever asks while it is being read has it read once more.

    `in_force` gives the configuration that is served by. `adopt` puts another in its place; it raises
    `ConfigurationError`, having changed nothing. `later` is the loop's `call_later`. `read` gives what a
    source says, and may raise `ConfigurationError`; it is passed the format of the log.
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

    async def stop(self) -> None:
        """The server drains: nothing takes effect any more, and what is being read is not read to its end."""
        self._over = True
        self._arm()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def reload(self) -> None:
        """Have the configuration read, and go by it or say every problem and go on by the one in force."""
        if self._over:
            logger.info("the configuration is not reloaded: the proxy is draining")
        elif not self._serves:
            self._asked = True
        elif self._source is None:
            logger.info("there is nothing to reload: the proxy was started without a configuration file")
        else:
            self._asked = True
            self._begin(self._source)

    def _begin(self, source: Source) -> None:
        if self._task is None:
            self._task = spawn(self._look(source))

    async def _look(self, source: Source) -> None:
        """Reload when a file has changed or somebody has asked, and again when somebody asks meanwhile."""
        try:
            if not self._asked and await asyncio.to_thread(source.watch.poll):
                self._asked = True
            while self._asked:
                self._asked = False
                self._metrics.reloaded(success=await self._reloaded(source))
        finally:
            self._task = None
            self._arm()

    async def _reloaded(self, source: Source) -> bool:
        # What comes to be now stays. Looking it through for cycles stops the loop: 0.4 s for 10,000 routes.
        gc.disable()
        try:
            await self._take_up(source)
        except ConfigurationError as error:
            await _say_refused(error.problems, str(source.path))
            return False
        except Exception:
            logger.exception(
                "the configuration is not reloaded: the proxy failed over it; please report this",
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
        # Before they are read by those who need them.
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
        if self._source is not None:
            self._begin(self._source)


def say(warnings: Iterable[Problem]) -> None:
    """Log what about a valid configuration is hardly meant."""
    for warning in warnings:
        logger.warning("%s", replace(warning, warning=False))


async def _say_refused(problems: Sequence[Problem], file: str) -> None:
    await in_slices(problems, _say_wrong)
    logger.error(
        "the configuration is not reloaded: the last good one stays in force until this is mended",
        extra={"fields": {"file": file, "problems": len(problems)}},
    )


def _say_wrong(problems: Iterable[Problem]) -> None:
    for problem in problems:
        logger.error("%s", problem)


def _hold_back(before: Settings, after: Settings) -> tuple[Settings, list[str]]:
    """`after` with all that only a start can change left as it was `before`; the keys where that matters."""
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
    """What is different, in few words and without a value. `files`: the keys that name a file in which
    something else is now; `held_back`: what has changed and takes effect at the next start only.
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
    told = {
        "routes_added": [name for name in new if name not in old],
        "routes_removed": [name for name in old if name not in new],
        "changed": changed,
    }
    if not any(told.values()):
        told["changed"] = ["nothing"]
    told["needs_restart"] = list(held_back)
    return {what: ",".join(names) for what, names in told.items() if names}
