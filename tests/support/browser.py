"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.programs import Program, require, running

__all__ = ["Tab", "browsing", "tabs"]

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)
_CLOCK = Path(__file__).with_name("page_clock.js")
_LISTENING = re.compile(r"DevTools listening on (ws://\S+)")


class Tab:
    """One tab. Every frame in it can be asked, whatever its origin."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._session: str | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._contexts: dict[str, int] = {}  # frame id to the context of its page's own scripts
        self.errors: list[str] = []  # exceptions of scripts, and what was written to the console as an error

    async def listen(self) -> None:
        """Take what the browser says, until it is gone."""
        async for message in self._socket:
            self._take(message.json())

    def _take(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case None:
                answer = self._waiting.pop(message["id"])
                if answer.cancelled():
                    return  # who asked has given up
                if "error" in message:
                    answer.set_exception(RuntimeError(str(message["error"])))
                else:
                    answer.set_result(message["result"])
            case "Runtime.executionContextCreated":
                context = params["context"]
                if context["auxData"]["isDefault"]:
                    self._contexts[context["auxData"]["frameId"]] = context["id"]
            case "Runtime.exceptionThrown":
                self.errors.append(str(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def call(self, method: str, **params: Any) -> Any:
        """One command of the protocol and its result."""
        number = next(self._ids)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        session = {} if self._session is None else {"sessionId": self._session}
        await self._socket.send_json({"id": number, "method": method, "params": params, **session})
        return await self._waiting[number]

    async def attach(self, *, apart: bool) -> None:
        """Make the tab, and be told of everything in it."""
        profile = await self.call("Target.createBrowserContext") if apart else {}
        target = await self.call("Target.createTarget", url="about:blank", **profile)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def frames(self) -> dict[str, str]:
        """URL to id of every frame."""
        tree = (await self.call("Page.getFrameTree"))["frameTree"]
        nodes = [tree, *tree.get("childFrames", [])]
        return {node["frame"]["url"]: node["frame"]["id"] for node in nodes}

    async def ask(self, frame_url: str, expression: str) -> Any:
        """The value of an expression (or of its promise) in a frame; None while the frame is not there."""
        context = self._contexts.get((await self.frames()).get(frame_url, ""))
        if context is None:
            return None
        try:
            answer = await self.call(
                "Runtime.evaluate",
                expression=expression,
                contextId=context,
                returnByValue=True,
                awaitPromise=True,
            )
        except RuntimeError:
            return None  # the frame was loaded anew in between
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, frame_url: str, expression: str, within: float = 30.0) -> None:
        """Wait until an expression is true in a frame: by asking again and again, the only way into it."""
        seen = None
        try:
            async with asyncio.timeout(within):
                while not (seen := await self.ask(frame_url, expression)):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            text = await self.ask(frame_url, "document.body?.innerText")
            raise TimeoutError(f"{expression} is {seen} in {frame_url}: {text}; {self.errors}") from None

    async def stop_clock(self) -> None:
        """Let timers of the pages to come run in `advance` only. What these pages receive is not held up."""
        await self.call("Page.addScriptToEvaluateOnNewDocument", source=_CLOCK.read_text(encoding="utf-8"))

    async def advance(self, seconds: float) -> None:
        """Let so much time pass for the timers of the page."""
        expression = f"clock.advance({seconds * 1000})"
        answer = await self.call("Runtime.evaluate", expression=expression)
        assert "exceptionDetails" not in answer, answer

    async def hide(self) -> None:
        """Have Chromium minimise the window. It then tells the page that it is hidden."""
        await self._window("minimized")

    async def show(self) -> None:
        """Have Chromium restore the window of a hidden page."""
        await self._window("normal")

    async def _window(self, state: str) -> None:
        window = (await self.call("Browser.getWindowForTarget"))["windowId"]
        await self.call("Browser.setWindowBounds", windowId=window, bounds={"windowState": state})

    async def screenshot(self) -> bytes:
        """The whole page as PNG, for eyes."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


@contextlib.asynccontextmanager
async def browsing(directory: Path, *flags: str) -> AsyncIterator[Tab]:
    """An empty tab in a new browser, whose profile and log are in `directory`."""
    async with tabs(directory, 1, *flags) as (tab,):
        yield tab


@contextlib.asynccontextmanager
async def tabs(directory: Path, count: int, *flags: str, apart: bool = False) -> AsyncIterator[list[Tab]]:
    """So many empty tabs in one new browser, whose profile and log are in `directory`.

    They share one window, in which only the last one is not hidden, and its connections, six to one origin.
    With `apart` each has a window and a profile of its own.
    """
    command = [
        require("chromium", "google-chrome"),
        *_FLAGS,
        *flags,
        f"--user-data-dir={directory / 'profile'}",
    ]
    with running(command, port=None, log_file=directory / "chromium.log") as program:
        async with contextlib.AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            url = await _devtools(program)
            yield [await stack.enter_async_context(_tab(session, url, apart)) for _ in range(count)]


@contextlib.asynccontextmanager
async def _tab(session: aiohttp.ClientSession, url: str, apart: bool) -> AsyncIterator[Tab]:
    async with session.ws_connect(url, max_msg_size=0) as socket:
        tab = Tab(socket)
        listening = asyncio.get_running_loop().create_task(tab.listen())
        try:
            await tab.attach(apart=apart)
            yield tab
        finally:
            await socket.close()
            await listening


async def _devtools(program: Program, within: float = 30.0) -> str:
    """The address that Chromium writes to its log once it is ready."""
    async with asyncio.timeout(within):
        while (found := _LISTENING.search(program.log)) is None:
            if (code := program.process.poll()) is not None:
                raise RuntimeError(f"chromium ended with {code}:\n{program.log}")
            await asyncio.sleep(0.02)
    return found[1]
