"""The configuration file is read in a child: what comes back, and what becomes of the child."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from sse_keepalive_proxy.config import Overrides
from sse_keepalive_proxy.errors import ConfigurationError, Problem
from sse_keepalive_proxy.serve.source import Source, load_in_child
from tests.config.keys import ED25519
from tests.support.instance import config
from tests.support.running import on_each_loop, soon

NOWHERE = "http://127.0.0.1:1"
TOO_MANY = 30_000
"""Routes whose reading takes seconds: it is not over before the test has done what it wants to the child."""


def source_of(folder: Path, text: str, environ: dict[str, str] | None = None, **flags: str) -> Source:
    path = folder / "config.yaml"
    path.write_text(text)
    return Source(path, environ=environ or {}, overrides=Overrides(**flags))


def many(count: int, what: str = "stream: {}") -> str:
    """`count` routes; `what` is a line of each."""
    return "".join(
        f"- {{name: r{each}, match: {{path: /r{each}}}, upstream: up, {what}}}\n" for each in range(count)
    )


def problems_of(error: pytest.ExceptionInfo[ConfigurationError]) -> list[str]:
    return [str(problem) for problem in error.value.problems]


def children() -> list[int]:
    """The processes that read a configuration for this one, and are not yet waited for."""
    found = map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    return [pid for pid in found if b"serve.source" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@on_each_loop
async def test_what_a_child_reads_is_what_would_be_read_here(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(ED25519)
    identity = f"identity: {{from: 'query:t', verify: jwt, public_key_file: {key}}}"
    text = config(
        NOWHERE,
        f"{identity}\nmax_event: ${{SIZE}}",
        routes=many(250),
        before="logging: {level: debug}\nlisten: ['[::1]:1', 'unix:/x']",
    )
    text = text.replace("upstreams: {", "upstreams: {spare: {url: 'http://127.0.0.1:2'}, ")
    source = source_of(
        tmp_path, text, {"SIZE": "3MiB", "SSE_KEEPALIVE_PROXY_LOG_LEVEL": "error"}, admin_listen="off"
    )
    here = source.load()
    assert (len(here.settings.routes), len(here.warnings)) == (252, 1)
    assert await load_in_child(source, "text") == here
    assert children() == []


@on_each_loop
async def test_every_problem_comes_back_unchanged(tmp_path: Path) -> None:
    source = source_of(tmp_path, config(NOWHERE, routes=many(250, "max_evnt: 1")))
    with pytest.raises(ConfigurationError) as here:
        source.load()
    with pytest.raises(ConfigurationError) as there:
        await load_in_child(source, "text")
    assert len(problems_of(there)) == 250
    assert there.value.problems == here.value.problems


@on_each_loop
async def test_a_child_that_is_killed_is_a_problem_with_its_status(tmp_path: Path) -> None:
    source = source_of(tmp_path, config(NOWHERE, routes=many(TOO_MANY)))
    reading = asyncio.create_task(load_in_child(source, "text"))
    await soon(children, lambda: "no child")
    os.kill(children()[0], signal.SIGKILL)
    with pytest.raises(ConfigurationError) as error:
        await reading
    assert problems_of(error) == [
        f"{source.path}: cannot be read: the process that reads it has ended early, with status -9"
    ]
    assert children() == []


@on_each_loop
async def test_what_is_not_waited_for_any_more_is_ended(tmp_path: Path) -> None:
    source = source_of(tmp_path, config(NOWHERE, routes=many(TOO_MANY)))
    reading = asyncio.create_task(load_in_child(source, "text"))
    await soon(lambda: children() and os.getpgid(children()[0]) != os.getpgrp(), lambda: "no child")
    os.kill(children()[0], signal.SIGSTOP)  # it will not end by itself
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert children() == []


@on_each_loop
async def test_signals_for_the_group_of_the_proxy_are_not_for_the_child(tmp_path: Path) -> None:
    group: list[int] = []

    def seen() -> bool:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            group.extend(os.getpgid(child) for child in children())
        return bool(group)

    reading = asyncio.create_task(
        load_in_child(source_of(tmp_path, config(NOWHERE, routes=many(500))), "text")
    )
    await soon(seen, lambda: "no child")
    assert os.getpgrp() not in group
    assert len((await reading).settings.routes) == 502


@on_each_loop
async def test_where_no_process_can_be_started_that_is_the_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(tmp_path, config(NOWHERE))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with pytest.raises(ConfigurationError) as error:
        await load_in_child(source, "text")
    said = "cannot be read: no process can be started for it: No such file or directory"
    assert error.value.problems == (Problem(said, file=str(source.path)),)


@on_each_loop
async def test_an_internal_error_in_the_child_is_one_log_line_without_any_input(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = source_of(tmp_path, config(NOWHERE, "keepalive: {interval: '${I}'}"))
    source.environ = {"I": b"s3cr3t"}  # type: ignore[dict-item]  # no environment has such a value
    with pytest.raises(ConfigurationError) as error:
        await load_in_child(source, "json")
    assert problems_of(error)[0].endswith("has ended early, with status 1")
    (line,) = capfd.readouterr().err.splitlines()
    assert '"message": "reading the configuration failed; please report this"' in line
    assert "TypeError" in line
    assert "s3cr3t" not in line
