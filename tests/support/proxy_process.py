"""The real proxy, run as users run it: a process of its own with the command line of the package.

    with running_proxy(tmp_path, upstream=upstream.url) as proxy:
        ...
        assert proxy.metric("sse_proxy_pings_sent_total", route="events", form="comment") == 2
        assert proxy.stop() == 0

Usable around and inside an event loop: the calls block it only for a moment, and need nothing of it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

import sse_keepalive_proxy
from tests.support.programs import Program, end, free_port

__all__ = ["Metrics", "ProxyProcess", "parse_metrics", "running_proxy"]

Metrics: TypeAlias = dict[tuple[str, frozenset[tuple[str, str]]], float]

_ENVIRONMENT = "SSE_KEEPALIVE_PROXY_"


def _grows(name: str) -> bool:
    """Whether a sample of this name never shrinks."""
    return name.endswith("_total")


def parse_metrics(text: str) -> Metrics:
    """Prometheus text as `{(sample name, {(label, value), …}): value}`."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@dataclass(frozen=True, slots=True)
class ProxyProcess:
    """A running proxy. `config_file` is None when it was started with `upstream` alone."""

    program: Program
    port: int
    admin_port: int
    config_file: Path | None

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """The admin listener."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.program.pid

    @property
    def log(self) -> str:
        """Everything it has written to standard output and error so far."""
        return self.program.log

    def admin(self, path: str) -> tuple[int, str]:
        """GET a path of the admin listener: status and body. OSError when it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def streams(self) -> Any:
        """What `/streams` says, decoded."""
        status, body = self.admin("/streams")
        assert status == 200, body
        return json.loads(body)

    def metrics(self) -> Metrics:
        """A scrape of `/metrics`."""
        status, body = self.admin("/metrics")
        assert status == 200, body
        return parse_metrics(body)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample; KeyError with what there is under that name when it is missing."""
        metrics = self.metrics()
        key = (name, frozenset(labels.items()))
        if key not in metrics:
            raise KeyError(f"{name}{labels}; there are {[k for k in metrics if k[0] == name]}")
        return metrics[key]

    def wait_for_metric(self, name: str, value: float, within: float = 20.0, **labels: str) -> None:
        """Wait until a counter has reached `value`, or a gauge is `value`: by scraping, the only way into
        another process.
        """
        give_up_at = time.monotonic() + within
        while not ((seen := self.metric(name, **labels)) == value or (seen > value and _grows(name))):
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{name}{labels} is {seen}, not {value}, after {within} s")
            time.sleep(0.02)

    def wait_for_log(self, text: str, within: float = 20.0) -> None:
        """Wait until the log holds `text`."""
        give_up_at = time.monotonic() + within
        while text not in self.log:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"no {text!r} after {within} s in the log:\n{self.log}")
            time.sleep(0.02)

    def write_config(self, text: str) -> None:
        """Replace the configuration file's content (a reload follows by SIGHUP or by itself)."""
        assert self.config_file is not None
        fresh = self.config_file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.config_file)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.program.process.send_signal(number)

    def wait(self, within: float = 60.0) -> int:
        """Wait until it has ended; its exit code."""
        return self.program.process.wait(within)

    def stop(self, number: signal.Signals = signal.SIGTERM, within: float = 60.0) -> int:
        """Send `number` and wait for the end; the exit code (negative: killed by that signal)."""
        self.send_signal(number)
        return self.wait(within)


@contextlib.contextmanager
def running_proxy(
    directory: Path,
    *,
    config: str | Path | None = None,
    upstream: str | None = None,
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    within: float = 60.0,
) -> Iterator[ProxyProcess]:
    """Run `python -m sse_keepalive_proxy run` until the block ends; it is ready (`/readyz` says 200).

    `directory` (a `tmp_path`) takes its log and, when `config` is YAML text, `config.yaml`. A path is
    used as it is. The listeners are set by flags to free ports of 127.0.0.1, whatever the file says.
    `env` is added to this process's environment, from which the proxy's own variables are taken out.
    RuntimeError with the log when it does not become ready.
    """
    port, admin_port = free_port(), free_port()
    command = [sys.executable, "-m", "sse_keepalive_proxy", "run"]
    config_file: Path | None = None
    if config is not None:
        config_file = config if isinstance(config, Path) else directory / "config.yaml"
        if isinstance(config, str):
            config_file.write_text(config)
        command += ["-c", str(config_file)]
    if upstream is not None:
        command += ["--upstream", upstream]
    command += ["--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin_port}", *arguments]
    log_file = directory / f"proxy-{port}.log"
    with log_file.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=_environment(env or {}),
            start_new_session=True,
        )
    proxy = ProxyProcess(Program(process, log_file), port, admin_port, config_file)
    try:
        _wait_ready(proxy, within)
        yield proxy
    finally:
        end(process)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith(_ENVIRONMENT)}
    # The package this test process imported is the one to run, from a checkout as from an installed wheel.
    mine["PYTHONPATH"] = str(Path(sse_keepalive_proxy.__file__).parents[1])
    return {**mine, "PYTHONUNBUFFERED": "1", **extra}


def _wait_ready(proxy: ProxyProcess, within: float) -> None:
    give_up_at = time.monotonic() + within
    while time.monotonic() < give_up_at:
        if (code := proxy.program.process.poll()) is not None:
            raise RuntimeError(f"the proxy ended with {code}:\n{proxy.log}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if proxy.admin("/readyz")[0] == 200:
                return
        time.sleep(0.02)
    raise RuntimeError(f"the proxy is not ready after {within} s:\n{proxy.log}")
