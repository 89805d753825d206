"""A frozen notify-server is restarted by what `deploy/` says, while streams go on and no message is missing.

The commands of compose.yaml run as they stand, beside something that starts an ended server as Docker does.
The probes of sidecar.yaml are made as the kubelet makes them. Only their times are shorter: for the real
ones, run `python -m tests.deploy.test_frozen_restart`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pytest
import yaml

from sse_keepalive_proxy.config import load
from tests.deploy.lasting_server import tokens_of
from tests.support.instance import EVENT_SOURCE
from tests.support.looping import run
from tests.support.nats import nats_server, publisher, send
from tests.support.programs import end, free_port, running
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.running import soon
from tests.support.stand_in import CHAT, SENDER, example, said

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
LEAVER, *STAYING = USERS = (1000, 1001, 1002)


@dataclass
class Server:
    """A notify-server that a supervisor starts, again and again, behind the words `before` its command."""

    before: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    starts: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)  # for its supervisor
    secret: str = field(default_factory=lambda: os.urandom(32).hex())
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def target(self, user: int) -> str:
        return f"/events?access_token={tokens_of(self.secret).issue(user)}"

    def start(self) -> subprocess.Popen[bytes]:
        program = (sys.executable, "-m", "tests.deploy.lasting_server", str(self.port), self.secret)
        self.starts += 1
        self.process = subprocess.Popen(
            [*self.before, *program, *map(str, USERS)],
            cwd=ROOT,
            env={**os.environ, **self.env},
            start_new_session=True,
        )
        return self.process

    def kill(self) -> None:
        """SIGKILL to it, and to what watches it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    async def freeze(self) -> None:
        """A client leaves, and a message for it follows."""
        async with await RawClient.connect(self.url) as leaver:
            leaver.request(self.target(LEAVER), EVENT_SOURCE)
            await leaver.wait_for(lambda leaver: bool(leaver.responses))
        message = f'{{"chat_id":{CHAT},"sender_id":{SENDER},"content":"hi"}}'
        body = f'{{"subject":"fechatter.message.new","payload":{message}}}'.encode()
        async with asyncio.timeout(30):
            while not await self._is_frozen():
                async with await RawClient.connect(self.url) as client:
                    client.request("/demo/publish", method="POST", body=body)
                    await client.wait_response()

    async def _is_frozen(self) -> bool:
        """What it says of itself, also then."""
        async with await RawClient.connect(self.url) as client:
            client.request("/demo/state")
            frozen: bool = json.loads((await client.wait_response()).body)["frozen"]
            return frozen


async def answers(url: str, within: float = 1.0) -> bool:
    """Whether a GET of `url` is answered with 200 in time."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(within):
            async with await RawClient.connect(host="127.0.0.1", port=int(parts.port or 0)) as client:
                client.request(parts.path)
                return (await client.wait_response()).status == 200
    except (OSError, TimeoutError):
        return False


Supervisor: TypeAlias = Callable[[Server, ProxyProcess, Path, float], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def background(work: Callable[[], Any]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work())
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def compose(name: str) -> dict[str, Any]:
    """A service of compose.yaml."""
    service: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"][name]
    return service


def command_of(service: dict[str, Any], folder: Path, admin: str = "") -> list[str]:
    """Its entrypoint on this machine."""
    places = {"/frozen/": f"{DEPLOY}/frozen/", "/verdict/": f"{folder}/", "http://proxy:9090": admin}
    command = " ".join(service["entrypoint"])
    for there, here in places.items():
        command = command.replace(there, here)
    return command.split()


@contextmanager
def watching(admin: str, folder: Path, period: float) -> Iterator[Path]:
    """The service `watch`. Yields its log."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PERIOD": str(period), "PATH": path}
    log = folder / "watch.log"
    with running(command_of(compose("watch"), folder, admin), port=None, log_file=log, env=env):
        yield log


@asynccontextmanager
async def docker(server: Server, proxy: ProxyProcess, folder: Path, pace: float) -> AsyncIterator[None]:
    """What compose.yaml has Docker do."""
    service = compose("notify-server")
    assert service["restart"] == "unless-stopped"
    assert service["init"] is True
    server.before = tuple(command_of(service, folder))
    start = service["environment"]["START"]
    server.env = {"PERIOD": str(5 * pace), "START": str(start * pace)}

    async def restart() -> None:
        while True:
            server.started.set()
            process = server.start()
            server.env["START"] = str(start)  # the next one has all the time until the verdict is gone
            await asyncio.to_thread(process.wait)

    with watching(proxy.admin_url, folder, 5 * pace):
        async with background(restart):
            try:
                yield
            finally:
                server.kill()  # which ends the thread that waits for it


@asynccontextmanager
async def kubelet(server: Server, proxy: ProxyProcess, _: Path, pace: float) -> AsyncIterator[None]:
    """What sidecar.yaml has the kubelet do."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "sidecar.yaml").read_text())
    (pod,) = (each["spec"]["template"]["spec"] for each in documents if each["kind"] == "Deployment")
    (container,) = (each for each in pod["containers"] if each["name"] == "notify-server")
    ports = {9090: proxy.admin_port, 6687: server.port}

    async def until(probe: dict[str, Any], *, well: bool) -> None:
        failures, wanted = 0, probe["httpGet"]
        while failures < probe["failureThreshold"]:
            await asyncio.sleep(probe["periodSeconds"] * pace)
            ok = await answers(f"http://127.0.0.1:{ports[wanted['port']]}{wanted['path']}")
            if ok and well:
                return
            failures = 0 if ok else failures + 1

    async def restart() -> None:
        while True:
            process = server.start()
            await until(container["startupProbe"], well=True)
            server.started.set()
            await until(container["livenessProbe"], well=False)
            end(process, grace=container["livenessProbe"]["terminationGracePeriodSeconds"])

    async with background(restart):
        try:
            yield
        finally:
            server.kill()


async def story(folder: Path, supervised: Supervisor, pace: float, frozen_after: str) -> tuple[int, float]:
    """Return how many messages each client has heard, and for how many seconds a page had to wait."""
    server = Server()
    with nats_server(folder) as (_, nats):
        text = example(server.url, servers=f"nats://127.0.0.1:{nats}", frozen_after=frozen_after)
        with running_proxy(folder, config=text) as proxy:
            async with (
                supervised(server, proxy, folder, pace),
                publisher(nats) as publish,
                contextlib.AsyncExitStack() as stack,
            ):
                await server.started.wait()
                clients = [
                    await stack.enter_async_context(await RawClient.connect(proxy.url)) for _ in STAYING
                ]
                for user, client in zip(STAYING, clients, strict=True):
                    client.request(server.target(user), EVENT_SOURCE)
                    await client.wait_for(b"connection_confirmed")
                sent: list[str] = []
                speaks = asyncio.Lock()

                async def talk() -> None:
                    while True:
                        async with speaks:
                            sent.append(f"message {len(sent)}")
                            message = {"id": str(len(sent)), "chat_id": CHAT, "sender_id": SENDER}
                            message |= {"files": [], "content": sent[-1], "timestamp": 1750852000}
                            told = {"message": message, "chat_id": CHAT, "recipients": STAYING}
                            await send(publish, f"fechatter.realtime.chat.{CHAT}", {"MessageReceived": told})
                        await asyncio.sleep(0.05)

                async with background(talk), await RawClient.connect(proxy.url) as page:
                    await server.freeze()
                    froze_at = time.monotonic()
                    page.request(server.target(LEAVER), EVENT_SOURCE)  # an opening, which is not answered
                    await soon(lambda: status(proxy) == 503, lambda: "not frozen", within=30)
                    await soon(lambda: server.starts == 2, lambda: "not restarted", within=60 + 200 * pace)
                    await page.wait_for(b"connection_confirmed", within=60)
                    down = time.monotonic() - froze_at
                    await soon(lambda: status(proxy) == 200, lambda: "not well", within=30)
                    verdict = folder / "frozen"
                    await soon(lambda: not verdict.exists(), lambda: "the verdict stays", within=60)
                    await speaks.acquire()  # what is sent is sent whole before the talk ends
                for client in clients:
                    await client.wait_for(f'"content":"{sent[-1]}"'.encode())
                    heard = [each["message"]["content"] for each in said(client) if "message" in each]
                    assert heard == sent
                    assert client.ending is None
                assert server.starts == 2
    return len(sent), down


def status(proxy: ProxyProcess) -> int:
    return proxy.admin("/upstreams/notify")[0]


@pytest.mark.parametrize("supervised", [docker, kubelet])
def test_a_frozen_server_is_restarted_and_streams_go_on_without_a_missing_message(
    supervised: Supervisor, tmp_path: Path
) -> None:
    run(story(tmp_path, supervised, pace=0.01, frozen_after="1s"), within=180)


def test_a_proxy_that_is_away_says_nothing_about_the_server(tmp_path: Path) -> None:
    verdict = tmp_path / "frozen"
    verdict.touch()  # of a former life
    with watching(f"http://127.0.0.1:{free_port()}", tmp_path, 0.01) as log:
        run(soon(lambda: log.read_text().count("/livez") > 3, within=60), within=70)
        assert not verdict.exists()


def test_a_server_has_time_to_start_before_it_is_judged(tmp_path: Path) -> None:
    (tmp_path / "frozen").touch()
    began_at = time.monotonic()
    server = subprocess.Popen(
        [*command_of(compose("notify-server"), tmp_path), "sleep", "30"],
        env={**os.environ, "START": "0.5", "PERIOD": "0.01"},
        start_new_session=True,
    )
    assert server.wait(20) == -signal.SIGKILL
    assert time.monotonic() - began_at >= 0.5


def test_a_server_gets_its_signals_and_ends_with_its_own_code(tmp_path: Path) -> None:
    command = command_of(compose("notify-server"), tmp_path)
    server = subprocess.Popen([*command, "sh", "-c", "exit 3"], start_new_session=True)
    assert server.wait(20) == 3
    server = subprocess.Popen([*command, "sleep", "30"], start_new_session=True)
    server.terminate()
    assert server.wait(20) == -signal.SIGTERM


def test_the_sidecars_probe_outlasts_the_longest_restart_of_the_proxy() -> None:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "sidecar.yaml").read_text())
    (pod,) = (each["spec"]["template"]["spec"] for each in documents if each["kind"] == "Deployment")
    server, proxy = pod["containers"]
    patience, hung = (
        each["livenessProbe"]["periodSeconds"] * each["livenessProbe"]["failureThreshold"]
        for each in (server, proxy)
    )
    back_off = 10 + 20
    assert patience > hung + pod["terminationGracePeriodSeconds"] + back_off
    assert load(ROOT / "config.example.yaml", environ={}).settings.upstreams["notify"].frozen_after == 15.0


if __name__ == "__main__":
    for each in (docker, kubelet):
        with tempfile.TemporaryDirectory() as scratch:
            told, waited = asyncio.run(story(Path(scratch), each, pace=1.0, frozen_after="15s"))
        sys.stdout.write(f"{each.__name__}: {told} messages to each, a page has waited {waited:.0f} s\n")
