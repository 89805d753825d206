"""The live view, on a terminal and elsewhere."""

import asyncio
import io

import pytest

from sse_keepalive_proxy.demo.live import watch
from sse_keepalive_proxy.demo.stage import Stage, staged
from tests.support.looping import Changes, in_loop


class Screen(io.StringIO):
    """An output that can be waited for."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal
        self._changes = Changes()

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self._changes.notify()
        return super().write(text)

    async def until(self, text: str) -> None:
        await self._changes.until(lambda: text in self.getvalue(), 20, self.getvalue)


async def show(stage: Stage, screen: Screen, *awaited: str) -> str:
    """Watch until all of `awaited` was shown in turn, a message having been sent after the first."""
    ended = asyncio.Event()
    watching = asyncio.get_running_loop().create_task(watch(stage, screen, ended))
    try:
        await screen.until(awaited[0])
        stage.send("hi")
        for text in awaited[1:]:
            await screen.until(text)
    finally:
        ended.set()
        await watching
    return screen.getvalue()


@in_loop
async def test_a_terminal_sees_one_table_written_over_in_place() -> None:
    async with staged(0) as stage:
        screen = Screen(terminal=True)
        text = await show(
            stage, screen, "send a message", "it never reconnects: closed by upstream after its first event"
        )
    assert text.startswith(f"open {stage.proxy_url}/demo/\n")
    first, *rest = text.split("\x1b[13F")
    assert rest
    assert {picture.count("\n") for picture in rest} == {13}
    assert first.count("\n") == 13 + 3
    assert "\x1b[K\n" in first


@in_loop
async def test_a_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    async with staged(0) as stage:
        text = await show(stage, Screen(terminal=True), "send a message on the pa")
    picture = text.partition("\n\n")[2]
    assert max(len(line.removesuffix("\x1b[K")) for line in picture.splitlines()) == 29


@in_loop
async def test_elsewhere_there_is_one_line_for_each_change() -> None:
    async with staged(0) as stage:
        stage.moved = True
        screen = Screen(terminal=False)
        text = await show(stage, screen, "proxy: alive", "direct: ended", "2, 1 gaps announced")
    assert text.startswith("port 8090 is in use: using another one\nopen http://127.0.0.1:")
    assert "\x1b" not in text
    assert "direct: silent, 0 bytes, 0 pings, 0 events, onmessage received 0, 0 gaps announced" in text
    assert "through the proxy: alive" in text.splitlines()[-1]
    lines = [line.partition("  ")[2] for line in text.splitlines()[4:]]
    assert len(lines) == len(set(lines))
