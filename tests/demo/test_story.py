"""The story without a healed stream. tests/cli has the story with a healed stream."""

from pathlib import Path

import pytest

from sse_keepalive_proxy.demo import stage as stage_module
from sse_keepalive_proxy.demo import story as story_module
from sse_keepalive_proxy.demo.hub import Mode
from sse_keepalive_proxy.demo.observer import Observer
from sse_keepalive_proxy.demo.stage import CHAT, staged
from sse_keepalive_proxy.demo.story import tell
from sse_keepalive_proxy.http.dialer import Dialer
from sse_keepalive_proxy.net.poller import open_poller
from tests.support.looping import in_loop


def against(said: list[str]) -> list[str]:
    """The lines of a verdict that is not healed."""
    assert not any(line.startswith("healed") for line in said)
    return said[said.index("not healed:") + 1 :]


@in_loop
async def test_a_stream_that_does_not_go_through_the_proxy_is_healed_in_no_scene() -> None:
    said: list[str] = []
    async with staged(0) as stage:
        stage.proxied.close()
        stage.proxied = Observer(Dialer(open_poller()), stage._news.set)
        await stage.proxied.open(stage.direct_url, stage.notify.token(stage.notify.hub.join(CHAT)))
        assert not await tell(stage, said.append, watch=0.3)
        stage.proxied.close()
    verdict = against(said)
    for line in (
        "  - silence, through the proxy: no confirm reached onmessage",
        "  - first event, through the proxy: it ended: closed by upstream after its first event",
        "  - upstream restart, through the proxy: the message after the restart did not reach onmessage",
    ):
        assert line in verdict
    assert not [line for line in verdict if ", direct: " in line]


@in_loop
async def test_without_reconnect_neither_the_first_event_nor_a_restart_is_healed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = stage_module._CONFIG.read_text(encoding="utf-8")
    off = text.replace("when: always ", "when: off ").replace("action: reconnect ", "action: observe ")
    assert text.count("when: always ") == text.count("action: reconnect ") == 1
    config = tmp_path / "demo.yaml"
    config.write_text(off, encoding="utf-8")
    monkeypatch.setattr(stage_module, "_CONFIG", config)
    said: list[str] = []
    async with staged(0) as stage:
        assert not await tell(stage, said.append, watch=5.5)
    verdict = against(said)
    assert not [line for line in verdict if line.startswith("  - silence")]
    assert [line for line in verdict if line.startswith("  - first event, through the proxy: it ended")]
    assert [line for line in verdict if line.startswith("  - upstream restart, through the proxy: it ended")]


@in_loop
async def test_a_server_that_ends_nothing_leaves_nothing_to_heal(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("_ARRIVES", "_RETURNS"):  # what is waited for in vain
        monkeypatch.setattr(story_module, limit, 0.5)
    said: list[str] = []
    async with staged(0) as stage:
        stage.notify.hub.mode = Mode.HEALTHY
        stage.direct.close()
        stage.direct = Observer(Dialer(open_poller()), stage._news.set)
        await stage.direct.open(stage.direct_url, stage.notify.token(stage.notify.hub.join(CHAT)))
        await stage.until(lambda: stage.direct.figures().bytes > 0, 5)
        assert not await tell(stage, said.append, watch=0.3)
        stage.direct.close()
    verdict = against(said)
    assert [line for line in verdict if line.startswith("  - silence, direct: it was not silent")]
    assert "  - first event, direct: upstream did not end it after its first event" in verdict
