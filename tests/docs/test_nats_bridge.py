"""The guide of the bridge: its configuration, what it says of `check`, and the mapping that it explains."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sse_keepalive_proxy.cli import main
from sse_keepalive_proxy.config import load
from sse_keepalive_proxy.demo.tokens import new_tokens
from sse_keepalive_proxy.stream.policy import BridgeSubject
from tests.config.test_example import EXAMPLE
from tests.support.http1 import chunk, stream_head
from tests.support.instance import EVENT_SOURCE
from tests.support.looping import run
from tests.support.nats import nats_server, publisher, send
from tests.support.proxy_process import running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, RawUpstream, Script

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "nats-bridge.md").read_text(encoding="utf-8")


def block(kind: str, begins: str) -> str:
    """The only block of code of this kind that begins so."""
    (found,) = (
        each
        for named, each in re.findall(r"^```(\w*)\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
        if named == kind and each.startswith(begins)
    )
    return str(found)


CONFIG = block("yaml", "listen")
MESSAGE = block("json", "{")
EVENT = b'event: note\ndata: {"id":7,"text":"hello"}\n\n'


def test_check_says_of_its_configuration_what_the_guide_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    assert main(["check", "--strict", "-c", str(file)]) == 0
    assert capsys.readouterr().err == block("", "note:")


def test_with_its_configuration_both_recipients_hear_a_message_once(tmp_path: Path) -> None:
    tokens = new_tokens()
    loses: Script = [GOT_REQUEST, stream_head()]
    delivers: Script = [GOT_REQUEST, stream_head(), chunk(EVENT)]

    async def story(port: int) -> None:
        async with RawUpstream(loses, delivers) as upstream, publisher(port) as nats:
            here = CONFIG.replace("http://127.0.0.1:3000", upstream.url).replace(":4222", f":{port}")
            with running_proxy(tmp_path, config=here) as proxy:
                proxy.wait_for_metric("sse_proxy_bridge_connected", 1, route="events")
                pages = []
                for user in ("u1", "u2"):
                    page = await RawClient.connect(proxy.url)
                    token = tokens.issue(1, claims={"sub": user})
                    page.request(f"/events?token={token}", EVENT_SOURCE)
                    await page.wait_for(b"connection_confirmed", within=20)
                    pages.append(page)
                await pages[1].wait_for(EVENT, within=20)
                await send(nats, "app.events.created", json.loads(MESSAGE))
                await pages[0].wait_for(EVENT, within=20)
                for outcome in ("filled", "delivered"):
                    proxy.wait_for_metric("sse_proxy_bridge_events_total", 1, outcome=outcome, route="events")
                assert [page.body.count(EVENT) for page in pages] == [1, 1]
                for page in pages:
                    await page.close()

    with nats_server(tmp_path) as (_, port):
        run(story(port), within=90)


def expressions(subject: BridgeSubject) -> Iterator[str]:
    """Every expression of a subject."""
    yield from (text for text in (subject.when, subject.learn, subject.recipients) if text is not None)
    yield from (*subject.keys, *subject.upstream_keys)
    yield from (frame.data for frame in subject.frames)


def test_the_guide_explains_every_line_of_the_mapping_of_the_example() -> None:
    stream = load(EXAMPLE, environ={}).settings.routes[0].stream
    assert stream is not None
    assert stream.bridge is not None
    explained = " ".join(GUIDE.split())
    for subject in stream.bridge.policy.subjects:
        assert f"`{subject.subject}`" in explained
        for each in expressions(subject):
            assert " ".join(each.split()) in explained
