"""The stand-in for notify-server in the test's loop, and the proxy in front of it as a process.

The proxy runs with `config.example.yaml`, only its upstream and some times replaced: what is proved here
holds for what users are given.

    async with healing(tmp_path, interval="1s") as (notify, proxy):
        async with await event_source(proxy.url, notify) as client:
            say(notify, "hi")
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sse_keepalive_proxy.demo.answers import Handler
from sse_keepalive_proxy.demo.hub import Outcome
from sse_keepalive_proxy.demo.knobs import Knobs
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient

__all__ = ["CHAT", "SENDER", "event_source", "example", "healing", "new_user", "said", "say"]

CHAT = 2
SENDER = 4  # never reads a stream here: nobody hears their own messages

_EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"


def example(upstream: str, **values: str) -> str:
    """`config.example.yaml` with another upstream and other values of keys that occur once in it."""
    text = _EXAMPLE.read_text(encoding="utf-8")
    for key, value in {"url": upstream, **values}.items():
        text, count = re.subn(rf"(?m)^( *{key}): .*$", rf"\g<1>: {value}", text)
        assert count == 1, f"{count} keys are called {key}"
    return text


@contextlib.asynccontextmanager
async def healing(
    directory: Path,
    mode: str = "silent",
    knobs: Knobs | None = None,
    pages: Mapping[str, Handler] = MappingProxyType({}),
    **values: str,
) -> AsyncIterator[tuple[NotifyServer, ProxyProcess]]:
    """Both, running. `values` are for `example`."""
    notify = NotifyServer(mode, knobs=knobs, pages=pages)
    await notify.start()
    try:
        with running_proxy(directory, config=example(notify.url, **values)) as proxy:
            yield notify, proxy
    finally:
        await notify.stop()


def new_user(notify: NotifyServer) -> tuple[int, str]:
    """Somebody new in the chat, and the path of their stream: the server has one slot for each user."""
    user = notify.hub.join(CHAT)
    return user, f"/events?access_token={notify.token(user)}"


async def event_source(url: str, notify: NotifyServer, *headers: str) -> RawClient:
    """A client that has asked for the stream of a new user as a browser does."""
    client = await RawClient.connect(url)
    client.request(new_user(notify)[1], "Accept: text/event-stream", *headers)
    return client


def say(notify: NotifyServer, content: str, *, sender: int = SENDER) -> Outcome:
    """A message to the chat, as NATS would bring it."""
    message = {"chat_id": CHAT, "sender_id": sender, "content": content}
    return notify.publish("fechatter.message.new", message)


def said(client: RawClient) -> list[Any]:
    """What a script with `onmessage` and nothing else would have heard: the decoded data of each event."""
    return [json.loads(event.data) for event in client.events if event.type == "message"]
