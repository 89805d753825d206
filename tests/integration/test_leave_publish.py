"""What a real nats-server gets when clients have gone, and what becomes of upstream (`leave.publish`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from sse_keepalive_proxy.demo.hub import Mode
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.demo.tokens import new_tokens
from tests.support.chat import listening_to_nats
from tests.support.instance import Instance, config
from tests.support.nats import nats_server, publisher
from tests.support.programs import free_port
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    LAST_CHUNK,
    RESET,
    RawUpstream,
    Script,
    UpstreamConnection,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop, on_loop, settings_of, soon

SILENT = [GOT_REQUEST, stream_head()]
TOKENS = new_tokens()
GONE = {"event_type": "status_changed", "user_id": 7, "status": "offline"}
SHARE = "share: {by: claim:user.id, linger: 20ms}"
EARLY = "early_commit: {after: 20ms}"
HOLD = "  hold: 1m\n"
STREAM = """\
identity: {{verify: upstream}}
reconnect: {{when: always, delay: 20ms}}
{more}
bridge:
  servers: nats://127.0.0.1:{port}
  subscriber: claim:user.id
  subjects: [{{subject: chat.*, recipients: to, data: text}}]
leave:
{hold}  publish:
    subject: user.status
    data: {{event_type: status_changed, user_id: "{{claim.user.id}}", status: offline}}
"""


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with nats_server(tmp_path_factory.mktemp("nats")) as (_, port):
        yield port


def leaving(port: int, more: str = "", hold: str = "") -> str:
    return STREAM.format(port=port, more=more, hold=hold)


class Listener:
    """A client of NATS that keeps what was published, and what `at_once` said at that moment."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.seen: list[Any] = []
        self.at_once = lambda: None

    async def received(self, message: Msg) -> None:
        self.messages.append(json.loads(message.data))
        self.seen.append(self.at_once())


@asynccontextmanager
async def listening(port: int) -> AsyncIterator[Listener]:
    listener = Listener()
    async with publisher(port) as client:
        await client.subscribe("user.status", cb=listener.received)
        await client.flush()
        yield listener


@asynccontextmanager
async def scene(
    port: int, stream: str, *scripts: Script, before: str = ""
) -> AsyncIterator[tuple[RawUpstream, Instance, Listener]]:
    async with (
        RawUpstream(*scripts) as upstream,
        Instance(config(upstream, stream, before=before)) as proxy,
        listening(port) as listener,
    ):
        await proxy.until(lambda: proxy.metric("bridge_connected"))
        yield upstream, proxy, listener


def of(user: int | None) -> str:
    token = TOKENS.issue(0 if user is None else user)
    return f"/events?access_token={token}"


async def joined(stack: AsyncExitStack, proxy: Instance, user: int = 7) -> RawClient:
    """A confirmed client of a user."""
    client = await stack.enter_async_context(await proxy.event_source(of(user)))
    await client.wait_for(b"connection_confirmed")
    return client


def published(proxy: Instance) -> tuple[float, float]:
    """How often it succeeded, and failed."""
    of_result = [proxy.metric("leave_publishes_total", result=each) for each in ("published", "failed")]
    return of_result[0], of_result[1]


def states(proxy: Instance) -> list[str]:
    """The states of all groups."""
    now = asyncio.get_running_loop().time()
    return [each.snapshot(now)["state"] for each in proxy.server.streams.groups]


async def open_connection(upstream: RawUpstream) -> UpstreamConnection:
    connection = await upstream.connection()
    assert not connection.lost
    return connection


@on_each_loop
async def test_the_message_is_out_before_upstream_is_closed_and_upstream_may_end_the_stream_itself(
    nats: int,
) -> None:
    ends = asyncio.Event()
    script: Script = [*SILENT, ends, LAST_CHUNK]
    async with scene(nats, leaving(nats), script) as (upstream, proxy, listener), AsyncExitStack() as stack:
        client = await joined(stack, proxy)
        connection = await upstream.connection()
        listener.at_once = lambda: connection.lost
        await client.close()
        await soon(lambda: listener.messages == [GONE])
        await proxy.until(lambda: published(proxy) == (1, 0))
        assert listener.seen == [False]
        assert proxy.metric("upstream_held_streams") == 1
        ends.set()
        await proxy.until(lambda: proxy.metric("upstream_held_streams") == 0)
        assert proxy.closed() == {"client_gone": 1}


def test_upstream_that_does_not_end_the_stream_is_closed_after_two_seconds(nats: int) -> None:
    async def story() -> None:
        async with scene(nats, leaving(nats), SILENT) as (upstream, proxy, listener):
            async with AsyncExitStack() as stack:
                await joined(stack, proxy)
                began = asyncio.get_running_loop().time()
            await soon(lambda: listener.messages)
            await (await open_connection(upstream)).wait_closed()
            assert asyncio.get_running_loop().time() - began > 1.5

    on_loop("uvloop", story())


@on_each_loop
async def test_it_is_said_once_for_a_group_when_its_last_client_has_gone(nats: int) -> None:
    async with scene(nats, leaving(nats, SHARE), SILENT) as (_, proxy, listener), AsyncExitStack() as stack:
        first, second = await joined(stack, proxy), await joined(stack, proxy)
        other = await joined(stack, proxy, 8)
        await first.close()
        await proxy.until_closed("client_gone")
        await other.close()  # what is published for the first would be published before
        await soon(lambda: listener.messages == [GONE | {"user_id": 8}])
        await second.close()
        await soon(lambda: listener.messages[1:] == [GONE])
        await proxy.until(lambda: published(proxy) == (2, 0))


@on_each_loop
async def test_each_stream_that_is_not_shared_says_it_for_itself(nats: int) -> None:
    async with scene(nats, leaving(nats), SILENT) as (_, proxy, listener), AsyncExitStack() as stack:
        for client in [await joined(stack, proxy), await joined(stack, proxy)]:
            await client.close()
        await soon(lambda: listener.messages == [GONE, GONE])


@on_each_loop
@pytest.mark.parametrize("share", ["", SHARE])
async def test_a_stream_that_upstream_has_ended_has_nothing_to_say(nats: int, share: str) -> None:
    stream = leaving(nats, share).replace("reconnect: {when: always, delay: 20ms}", "reconnect: off")
    async with scene(nats, stream, [*SILENT, chunk(b"data: 1\n\n"), LAST_CHUNK], SILENT) as story:
        _, proxy, listener = story
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(await proxy.event_source(of(7)))
            await client.wait_end()
            other = await joined(stack, proxy, 8)
            await other.close()
            await soon(lambda: listener.messages == [GONE | {"user_id": 8}])


@on_each_loop
@pytest.mark.parametrize("share", ["", "share: {by: claim:user.id, linger: 1m}"])
async def test_a_drain_says_it_too_and_upstream_may_end_its_streams(nats: int, share: str) -> None:
    ends = asyncio.Event()
    script: Script = [*SILENT, ends, LAST_CHUNK]
    drain = "drain: {timeout: 20s, spread: 10ms}"
    async with (
        scene(nats, leaving(nats, share), script, before=drain) as (_, proxy, listener),
        AsyncExitStack() as stack,
    ):
        for user in (7, 8):
            await joined(stack, proxy, user)
        draining = asyncio.create_task(proxy.server.drain(asyncio.Event()))
        await soon(lambda: sorted(each["user_id"] for each in listener.messages) == [7, 8])
        assert not draining.done()
        ends.set()
        async with asyncio.timeout(15):
            await draining


@on_each_loop
async def test_a_second_signal_says_it_too(nats: int) -> None:
    async with scene(nats, leaving(nats), SILENT, before="drain: {timeout: 20s, spread: 20s}") as story:
        upstream, proxy, listener = story
        async with AsyncExitStack() as stack:
            await joined(stack, proxy)
            hurry = asyncio.Event()
            hurry.set()
            await proxy.server.drain(hurry)
            await soon(lambda: listener.messages == [GONE])
            await upstream.wait_all_closed()


# Before upstream has answered.


@on_each_loop
@pytest.mark.parametrize("more", ["", SHARE, EARLY, f"{SHARE}\n{EARLY}"])
async def test_a_client_that_leaves_during_its_opening_is_reported_when_upstream_has_answered(
    nats: int, more: str
) -> None:
    answers = asyncio.Event()
    async with scene(nats, leaving(nats, more), [GOT_REQUEST, answers, stream_head()]) as story:
        upstream, proxy, listener = story
        async with await proxy.event_source(of(7)) as client:
            connection = await upstream.connection()
            await connection.request()
            if "early" in more:
                await client.wait_for(b":ok")
        await proxy.until(lambda: proxy.metric("upstream_held_streams") == 1)
        listener.at_once = lambda: answers.is_set() and not connection.lost
        answers.set()
        await soon(lambda: listener.messages == [GONE])
        assert listener.seen == [True]


@on_each_loop
async def test_what_upstream_refuses_after_its_client_has_left_is_not_said(nats: int) -> None:
    answers = asyncio.Event()
    refuses = [GOT_REQUEST, answers, response("401 Unauthorized", b"no")]
    async with scene(nats, leaving(nats), refuses, SILENT) as (upstream, proxy, listener):
        async with await proxy.event_source(of(7)):
            await (await upstream.connection()).request()
        await proxy.until(lambda: proxy.metric("upstream_held_streams") == 1)
        answers.set()
        await proxy.until(lambda: proxy.metric("upstream_held_streams") == 0)
        async with AsyncExitStack() as stack:
            await joined(stack, proxy, 8)
        await soon(lambda: listener.messages == [GONE | {"user_id": 8}])
        await proxy.until(lambda: published(proxy) == (1, 0))


@on_each_loop
@pytest.mark.parametrize("share", ["", SHARE])
async def test_a_client_that_leaves_during_its_opening_is_not_reported_while_it_has_another_stream(
    nats: int, share: str
) -> None:
    answers = asyncio.Event()
    slow = [GOT_REQUEST, answers, stream_head("Vary: *"), chunk(b"data: 1\n\n")]
    asked = [GOT_REQUEST, stream_head("Vary: *")]
    async with (
        scene(nats, leaving(nats, share), asked, slow, SILENT) as (upstream, proxy, listener),
        AsyncExitStack() as stack,
    ):
        await joined(stack, proxy)
        async with await proxy.event_source(of(7)):
            await (await upstream.connection(1)).request()
        await proxy.until(lambda: proxy.metric("upstream_held_streams") == 1)
        answers.set()
        now = asyncio.get_running_loop().time
        (held,) = proxy.server.streams.held
        await proxy.until(lambda: held.snapshot(now())["since_upstream_byte_s"] is not None)
        other = await joined(stack, proxy, 8)
        await other.close()
        await soon(lambda: listener.messages == [GONE | {"user_id": 8}])


@on_each_loop
async def test_an_attempt_to_open_upstream_again_is_reported_when_it_is_answered(nats: int) -> None:
    answers = asyncio.Event()
    scripts: list[Script] = [[*SILENT, chunk(b"data: 1\n\n"), RESET], [GOT_REQUEST, answers, stream_head()]]
    async with scene(nats, leaving(nats), *scripts) as (upstream, proxy, listener):
        async with AsyncExitStack() as stack:
            await joined(stack, proxy)
            await (await upstream.connection(1)).request()
        await proxy.until(lambda: proxy.metric("upstream_held_streams") == 1)
        assert listener.messages == []
        answers.set()
        await soon(lambda: listener.messages == [GONE])


# What cannot be published.


@on_each_loop
@pytest.mark.parametrize("share", ["", SHARE])
async def test_without_nats_the_stream_is_held_or_closed_as_hold_says(share: str) -> None:
    for hold in (HOLD, ""):
        stream = leaving(free_port(), share, hold)
        async with RawUpstream(SILENT) as upstream, Instance(config(upstream, stream)) as proxy:
            async with AsyncExitStack() as stack:
                await joined(stack, proxy)
            await proxy.until(lambda: published(proxy) == (0, 1))
            if hold:
                assert proxy.metric("upstream_held_streams") == 1
                await open_connection(upstream)
            else:
                await (await upstream.connection()).wait_closed()


@on_each_loop
@pytest.mark.parametrize("share", ["", SHARE])
async def test_what_was_held_because_nats_was_away_is_said_before_it_is_closed(
    tmp_path: Path, share: str
) -> None:
    port = free_port()
    stream = leaving(port, share, HOLD)
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream, stream)) as proxy:
        async with AsyncExitStack() as stack:
            await joined(stack, proxy)
        await proxy.until(lambda: published(proxy) == (0, 1))
        with nats_server(tmp_path, port):
            async with listening(port) as listener:
                await proxy.until(lambda: proxy.metric("bridge_connected"))
                connection = await open_connection(upstream)
                proxy.server.streams.held.allow(0)
                await soon(lambda: listener.messages == [GONE])
                await connection.wait_closed()


@on_each_loop
async def test_a_client_without_the_claim_is_held(nats: int) -> None:
    stream = leaving(nats, hold=HOLD).replace("claim.user.id", "claim.user.nobody")
    async with scene(nats, stream, SILENT) as (upstream, proxy, listener):
        async with AsyncExitStack() as stack:
            await joined(stack, proxy)
        await proxy.until(lambda: published(proxy) == (0, 1))
        assert proxy.metric("upstream_held_streams") == 1
        await open_connection(upstream)
        assert listener.messages == []


def test_what_the_server_of_nats_does_not_permit_is_held(tmp_path: Path) -> None:
    users = '[{user: a, password: b, permissions: {publish: {deny: ">"}}}]'
    (tmp_path / "nats.conf").write_text(f"authorization: {{users: {users}}}")

    async def story(port: int) -> None:
        stream = leaving(port, hold=HOLD).replace("  subscriber", "  user: a\n  password: b\n  subscriber")
        async with RawUpstream(SILENT) as upstream, Instance(config(upstream, stream)) as proxy:
            await proxy.until(lambda: proxy.metric("bridge_connected"))
            async with AsyncExitStack() as stack:
                await joined(stack, proxy)
            await proxy.until(lambda: published(proxy) == (0, 1))
            assert proxy.metric("upstream_held_streams") == 1
            await open_connection(upstream)

    with nats_server(tmp_path, None, "-c", str(tmp_path / "nats.conf")) as (_, port):
        on_loop("uvloop", story(port))


@on_each_loop
async def test_above_the_limit_of_held_streams_the_oldest_is_closed_after_its_message(nats: int) -> None:
    before = "limits: {max_held: 1}"
    async with (
        scene(nats, leaving(nats), SILENT, before=before) as (upstream, proxy, listener),
        AsyncExitStack() as stack,
    ):
        clients = [await joined(stack, proxy, user) for user in (7, 8)]
        for gone, client in enumerate(clients, 1):
            await client.close()
            await proxy.until_closed("client_gone", gone)
        await soon(lambda: [each["user_id"] for each in listener.messages] == [7, 8])
        await upstream.connections[0].wait_closed()
        assert not upstream.connections[1].lost


@on_each_loop
async def test_streams_of_a_bridge_that_a_reload_has_replaced_say_it_on_their_connection(nats: int) -> None:
    async with scene(nats, leaving(nats), SILENT) as (upstream, proxy, listener), AsyncExitStack() as stack:
        client = await joined(stack, proxy)
        await proxy.server._adopt(settings_of(config(upstream, "{}")))
        await client.close()
        await soon(lambda: listener.messages == [GONE])


# Before the silent build of notify-server, which a client that leaves and one message freeze.

USERS = 30


async def story(port: int, hold: str, *, with_nats: bool) -> tuple[bool, int, int]:
    """Thirty clients leave one after another, while half of them get messages. Then all get some. Return
    whether the server is frozen, how many were sent then, and how many the client got that has stayed.
    """

    def say(content: str, chat: int) -> None:
        notify.publish("fechatter.message.new", {"chat_id": chat, "sender_id": 99, "content": content})

    users = range(1, USERS + 2)
    notify = NotifyServer(Mode.SILENT, chats={2: users, 3: users[: USERS // 2]})
    share = f"{SHARE}\nrewrite: {{unname: [Generic]}}"
    stream = leaving(port, share, hold).replace("user.status", "fechatter.user.status")
    async with AsyncExitStack() as stack:
        await notify.start()
        stack.push_async_callback(notify.stop)
        proxy = await stack.enter_async_context(Instance(config(notify.url, stream)))
        if with_nats:
            await stack.enter_async_context(listening_to_nats(port, notify.publish))
            await proxy.until(lambda: proxy.metric("bridge_connected"))
        pages = []
        for user in users:
            target = f"/events?access_token={notify.token(user)}"
            pages.append(await stack.enter_async_context(await proxy.event_source(target)))
            await pages[-1].wait_for(b"connection_confirmed")
        stays, leave = pages[0], pages[1:]
        for number, page in enumerate(leave):
            await page.close()
            if not number % 5:
                say("meanwhile", 3)
        await proxy.until(lambda: proxy.closed() == {"client_gone": USERS})
        await proxy.until(lambda: "lingering" not in states(proxy))
        if with_nats:
            await proxy.until(lambda: proxy.metric("upstream_held_streams") == 0)
        await proxy.until(lambda: published(proxy)[not with_nats] >= USERS // 2)  # the others had a message
        if not hold:  # the server has noticed that they have gone
            await soon(lambda: len(notify.hub.streams) <= 1)
        for number in range(5):
            await soon(lambda: notify.hub.frozen or notify.hub.of_users({1}))
            say(f"last {number}", 2)
            if notify.hub.frozen:
                return True, number, 0
            await stays.wait_for(f"last {number}".encode())
        return False, 5, stays.body.count(b'"content":"last ')


def test_with_the_message_alone_no_client_that_leaves_freezes_the_server(nats: int) -> None:
    on_loop("uvloop", _lives(nats, hold="", with_nats=True), within=60.0)


def test_without_nats_the_server_lives_because_the_streams_are_held() -> None:
    on_loop("uvloop", _lives(free_port(), hold=HOLD, with_nats=False), within=60.0)


async def _lives(port: int, hold: str, *, with_nats: bool) -> None:
    assert await story(port, hold, with_nats=with_nats) == (False, 5, 5)


def test_with_neither_the_server_freezes() -> None:
    async def freezes() -> None:
        frozen, _, _ = await story(free_port(), "", with_nats=False)
        assert frozen

    on_loop("uvloop", freezes(), within=60.0)
