"""Every cell of the tables in `outcomes.py`, played on the real server: what the client gets on the wire, the
one reason that is counted, and how often upstream was asked. The page is written from the same tables.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest

from sse_keepalive_proxy.stream.messages import CloseReason
from tests.integration.outcomes import (
    ANSWERS,
    LATER,
    LOSSES,
    WHO,
    Again,
    Answers,
    Begins,
    Column,
    Ends,
    GoesOn,
    Loss,
    Ours,
    Outcome,
    Passes,
    Trouble,
    Way,
    Who,
    markdown,
)
from tests.support.http1 import LAST_CHUNK, chunk, response, stream_head
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, RawUpstream, Script
from tests.support.running import LOOPS, on_loop, soon

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "outcomes.md"
WELL: Script = [GOT_REQUEST, stream_head(), chunk(LATER)]
SOON, LONG = "500ms", "20s"  # how long upstream is asked again: to see the end of it, or never to
LATE, LATER_THAN_LATE = "400ms", "1s"  # an attempt that nobody answers, and what is `SOON` then
AT_ONCE, NEVER = "1ms", "8760h"  # the longest wait before that
NOT_OURS = (CloseReason.UPSTREAM_END, CloseReason.UPSTREAM_RESET)

ON_BOTH = pytest.mark.parametrize("loop", list(LOOPS))


def test_the_page_is_written_from_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run `make docs`"


# Who asks.


@dataclass(frozen=True, slots=True)
class Asking:
    """A request, and what its route is told of `reconnect`. `blocks`: what upstream has sent when it is lost;
    `sends`: the id that it is asked with then.
    """

    when: str
    headers: tuple[str, ...] = (EVENT_SOURCE,)
    method: str = "GET"
    body: bytes = b""
    blocks: bytes = b"data: 1\n\n"
    sends: str = ""

    @property
    def hears_events(self) -> bool:
        """Whether the confirm is an event for it, and with it all else that the proxy says."""
        return self.headers[0] == EVENT_SOURCE and self.method == "GET" and not self.body

    @property
    def error(self) -> str:
        """The event that reports a failure to it."""
        return "error" if self.body else "proxy_error"

    def is_told_of(self, reason: CloseReason) -> bool:
        """Whether this end of its stream is reported to it, if it hears no other events of ours."""
        return reason not in NOT_OURS or (reason is CloseReason.UPSTREAM_RESET and bool(self.body))


_ID = b"id: 7\ndata: 1\n\n"
OFF, NO_ID, ALWAYS = Asking("off"), Asking("resumable"), Asking("always")
SEEN_ID = Asking("resumable", blocks=_ID, sends="7")
OWN_ID = Asking("resumable", (EVENT_SOURCE, "Last-Event-ID: own"), sends="own")
OTHER = Asking("resumable", ("Accept: */*",), blocks=_ID)
OTHER_ALWAYS = Asking("always", ("Accept: */*",), blocks=_ID, sends="7")
POST = Asking("always", method="POST", body=b"{}", blocks=_ID)

LEFT_ALONE = (OFF, NO_ID, OTHER, POST)
ASKED_AGAIN = (SEEN_ID, ALWAYS, OTHER_ALWAYS)
ASKING = {
    Column.FIRST: (NO_ID, ALWAYS),
    Column.ONCE: (OFF, OTHER, POST),
    Column.EARLY: (NO_ID, OFF, OTHER),
    Column.EARLY_AGAIN: (ALWAYS, OWN_ID),
    Column.AGAIN: ASKED_AGAIN,
}


# Whom they ask.


class Names:
    """Resolves names in `.test` in the place of `socket.getaddrinfo`: those of `known` are 127.0.0.1."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self._others = socket.getaddrinfo

    def resolve(self, host: str, *rest: Any, **named: Any) -> Any:
        """As `socket.getaddrinfo`."""
        if not str(host).endswith(".test"):
            return self._others(host, *rest, **named)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self._others("127.0.0.1", *rest, **named)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """The names of this test. They are no names to uvloop, which asks the system itself."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.resolve)
    return names


class Upstream(RawUpstream):
    """An upstream that gets into trouble and out of it again."""

    def __init__(self, script: Script, names: Names) -> None:
        super().__init__(script)
        self._names = names
        self._plug: list[socket.socket] = []

    async def start(self) -> Self:
        await super().start()
        self._names.known.add(self.name)
        return self

    async def stop(self) -> None:
        self._unplug()
        await super().stop()

    @property
    def name(self) -> str:
        """Its host name, where it needs one."""
        return f"upstream-{self.port}.test"

    async def into(self, way: Way, go: asyncio.Event | None = None) -> None:
        """From the next connection on it does what `way` says; `go` is waited for before."""
        match way.does:
            case Trouble.REFUSED:
                self.refuse()
            case Trouble.NO_CONNECTION:
                self.refuse()
                await self._fill()
            case Trouble.UNKNOWN_NAME:
                self._names.known.discard(self.name)
            case steps:
                self.scripts[:] = [[GOT_REQUEST, *([go] if go else []), *steps]]

    async def out_of(self, way: Way) -> None:
        """From the next connection on all is well."""
        self.scripts[:] = [WELL]
        if way.does in (Trouble.REFUSED, Trouble.NO_CONNECTION):
            self._unplug()
            await self.start()
        self._names.known.add(self.name)

    async def _fill(self) -> None:
        """Listen where nobody accepts: the kernel answers no connection once its queue is full."""
        self._plug.append(listener := socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await soon(lambda: self._bound(listener), lambda: "the port is still taken")
        listener.listen(0)
        for _ in range(3):
            self._plug.append(waiting := socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect((self.host, self.port))

    def _bound(self, listener: socket.socket) -> bool:
        with suppress(OSError):
            listener.bind((self.host, self.port))
            return True
        return False

    def _unplug(self) -> None:
        for sock in self._plug:
            sock.close()
        self._plug.clear()


# What they see.


@dataclass(frozen=True, slots=True)
class Scene:
    """One cell as one client meets it. `mends`: upstream is well again while it is asked again. `ready`:
    where all scenes wait that are played at once, since starting a proxy holds up the others' clocks.
    `delay`: the longest wait before a second attempt, `NEVER` to see what comes of the first alone.
    """

    names: Names
    asking: Asking
    way: Way
    outcome: Outcome
    mends: bool = False
    delay: str = AT_ONCE
    ready: asyncio.Barrier | None = None

    @property
    def waits(self) -> bool:
        """Whether upstream can be told when to do it; the others are there before it is asked."""
        return self.way.does not in (Trouble.REFUSED, Trouble.UNKNOWN_NAME)

    @asynccontextmanager
    async def route(
        self, script: Script, *, first_within: str = LONG, give_up_after: str = LONG, stream: str = ""
    ) -> AsyncIterator[tuple[Upstream, Instance]]:
        """A proxy in front of an upstream with this script. `stream` are more lines of its section."""
        asking, way = self.asking, self.way
        if way.stream or way.does is Trouble.NO_CONNECTION:
            soon = {SOON: LATER_THAN_LATE}
            first_within, give_up_after = (soon.get(each, each) for each in (first_within, give_up_after))
        reconnect = (
            f"reconnect: {{when: {asking.when}, first_within: {first_within}, give_up_after: {give_up_after},"
            f" delay: {self.delay}, max_delay: {'20ms' if self.mends else NEVER}}}"
        )
        async with Upstream(script, self.names) as upstream:
            text = config(upstream, "\n".join([reconnect, stream, way.stream]))
            if way.does is Trouble.UNKNOWN_NAME:
                text = text.replace(upstream.host, upstream.name)
            if way.does is Trouble.NO_CONNECTION:
                text = text.replace(upstream.url, f"{upstream.url}', connect_timeout: '{LATE}")
            async with Instance(text) as proxy:
                if self.ready is not None:
                    await self.ready.wait()
                yield upstream, proxy

    @asynccontextmanager
    async def client(self, proxy: Instance) -> AsyncIterator[RawClient]:
        """The client, its request sent."""
        async with await proxy.client() as client:
            asking = self.asking
            client.request("/events", *asking.headers, method=asking.method, body=asking.body)
            yield client

    async def runs(self, proxy: Instance, client: RawClient, status: int) -> None:
        """The stream has begun, and nothing but its client ends it."""
        await client.wait_for(lambda client: LATER in client.body, within=15)
        assert client.response.status == status
        if self.asking.hears_events:
            assert client.events[0].type == "connection_confirmed"
        else:
            assert client.body.startswith(b":ok\n")
        assert not client.response.complete
        assert proxy.closed() == {}
        await client.close()
        await proxy.until_closed(CloseReason.CLIENT_GONE)
        await self.over(proxy)

    async def answered(self, proxy: Instance, client: RawClient) -> None:
        """The client has a true answer, and no stream is counted."""
        response = await client.wait_response(within=15)
        assert response.status == self.way.status
        if isinstance(self.outcome, Passes):
            assert bytes(response.body) == self.way.body
        else:
            assert response.body.startswith(b'route "events": upstream')
        assert proxy.closed() == {}
        await self.over(proxy)

    async def ended(self, proxy: Instance, client: RawClient) -> None:
        """The stream is over, for the one reason."""
        outcome = self.outcome
        assert isinstance(outcome, Ends)
        await client.wait_end(within=15)
        await proxy.until_closed(outcome.reason)
        await self.over(proxy)
        closes = self.asking.hears_events and (outcome.told or outcome.reason not in NOT_OURS)
        assert client.response.complete == (closes or outcome.reason is CloseReason.UPSTREAM_END)
        about = [self.asking.error] if outcome.told else []
        if closes:
            about.append("stream_closing")
        elif not outcome.told and self.asking.is_told_of(outcome.reason):
            about = [self.asking.error]
        last = client.events[len(client.events) - len(about) :]
        assert [event.type for event in last] == about
        kinds = [event.type for event in client.events]
        assert sum(kinds.count(kind) for kind in ("proxy_error", "error", "stream_closing")) == len(about)
        if closes:
            assert json.loads(last[-1].data) == {"type": "stream_closing", "reason": outcome.reason.value}
        if outcome.told:
            status = self.way.told or self.way.status
            told = {"type": "proxy_error", "status": status, "message": words_told(client)}
            assert json.loads(last[0].data) == told

    def told_of_gap(self, client: RawClient, reason: CloseReason) -> None:
        """It was told of the gap once: behind all that came before the gap, ahead of all that came after."""
        asking = self.asking
        before, told, after = client.body.partition(b"stream_recovered")
        assert asking.blocks in before
        assert LATER not in before
        assert LATER in after
        if not asking.hears_events:
            (text,) = [text for text in client.stream.comments if text.startswith("stream_recovered")]
            assert text.split()[1] == f"reason={reason}"
            assert text.split()[3] == f"resumed={'true' if asking.sends else 'false'}"
            return
        assert told not in after
        (event,) = [event for event in client.events if event.type == "stream_recovered"]
        data = json.loads(event.data)
        assert data.pop("gap_ms") >= 0
        assert data == {"reason": reason.value, "resumed": bool(asking.sends)}

    @staticmethod
    async def over(proxy: Instance) -> None:
        """Nothing is kept."""
        await proxy.until(lambda: len(proxy.server.streams) == 0)


def words_told(client: RawClient) -> str:
    """What the client was told in words: they are for people, but never missing."""
    (error,) = [json.loads(event.data) for event in client.events if event.type == "proxy_error"]
    assert error["message"].startswith("upstream")
    return str(error["message"])


def faults(proxy: Instance) -> float:
    """How often upstream gave a first opening no usable answer."""
    kinds = ("refused", "timeout", "reset", "invalid")
    return sum(proxy.metric("upstream_errors_total", kind=kind) for kind in kinds)


def attempts(proxy: Instance, *results: str) -> float:
    """How many attempts behind a client's back had one of these results."""
    return sum(proxy.metric("upstream_reconnects_total", result=result) for result in results)


async def all_of(play: Callable[[Scene], Coroutine[Any, Any, None]], scenes: Sequence[Scene]) -> None:
    """Play them at once: most of them wait most of the time."""
    ready = asyncio.Barrier(len(scenes))

    async def played(scene: Scene) -> None:
        try:
            await play(replace(scene, ready=ready))
        except Exception as error:
            error.add_note(f"{scene.way.name}: {scene.outcome}, mends: {scene.mends}; {scene.asking}")
            raise

    async with asyncio.TaskGroup() as group:
        for scene in scenes:
            group.create_task(played(scene))


# What upstream answers.


async def first_opening(scene: Scene) -> None:
    way, outcome = scene.way, scene.outcome
    # Within a second there is a second attempt, also if the first one has run into a time limit.
    async with scene.route(WELL, first_within=LONG if scene.mends else "1s") as (upstream, proxy):
        await upstream.into(way)
        async with scene.client(proxy) as client:
            if scene.mends:
                await proxy.until(lambda: upstream.connections or faults(proxy))
                await upstream.out_of(way)
                await scene.runs(proxy, client, 200)
            elif isinstance(outcome, Begins):
                await scene.runs(proxy, client, way.status)
            else:
                assert isinstance(outcome, Passes | Ours)
                await scene.answered(proxy, client)
                asked = max(len(upstream.connections), faults(proxy))
                assert asked > 1 if outcome.again else asked == 1
                assert faults(proxy) == (asked if isinstance(outcome, Ours) else 0)


async def behind_an_early_commit(scene: Scene) -> None:
    way, outcome = scene.way, scene.outcome
    again = isinstance(outcome, Ends) and outcome.again
    first_within = LONG if scene.mends and not again else "off" if again and scene.waits else SOON
    give_up_after = LONG if scene.mends else SOON
    async with scene.route(
        WELL, first_within=first_within, give_up_after=give_up_after, stream="early_commit: {after: 20ms}"
    ) as (upstream, proxy):
        await upstream.into(way, go := asyncio.Event())
        async with scene.client(proxy) as client:
            await client.wait_for(b":ok\n")
            assert client.response.status == 200
            assert client.events == []
            go.set()
            if scene.mends:
                if again:
                    await proxy.until(lambda: attempts(proxy, "failed"))
                await upstream.out_of(way)
            if scene.mends or isinstance(outcome, Begins):
                await scene.runs(proxy, client, 200)
                assert client.body.startswith(b":ok\n")
                assert b"stream_recovered" not in client.body  # nothing was lost
                return
            await scene.ended(proxy, client)
            assert again or not attempts(proxy, "failed", "ended")
        if not scene.waits:
            return
        away = isinstance(outcome, Ends) and outcome.reason is CloseReason.GIVE_UP and way.status >= 500
        if away:
            go.clear()
        async with scene.client(proxy) as client:  # the same credential once more
            if away:  # which was not refused
                await client.wait_for(b":ok\n")
            else:  # no early commit for it
                response = await client.wait_response(within=15)
                assert response.status == way.status
                assert sum(proxy.closed().values()) == 1


async def asked_again(scene: Scene) -> None:
    asking, way, outcome = scene.asking, scene.way, scene.outcome
    begun: Script = [GOT_REQUEST, stream_head(), chunk(asking.blocks), go := asyncio.Event(), LAST_CHUNK]
    give_up_after = LONG if scene.mends else SOON
    async with (
        scene.route(begun, give_up_after=give_up_after) as (upstream, proxy),
        scene.client(proxy) as client,
    ):
        await client.wait_for(lambda client: asking.blocks in client.body)
        await upstream.into(way)
        go.set()
        if scene.mends:
            await proxy.until(lambda: attempts(proxy, "failed"))
            await upstream.out_of(way)
        if scene.mends or isinstance(outcome, GoesOn):
            await client.wait_for(lambda client: LATER in client.body, within=15)
            scene.told_of_gap(client, CloseReason.UPSTREAM_END)
            assert attempts(proxy, "reopened") == 1
            await scene.runs(proxy, client, 200)
            return
        assert isinstance(outcome, Ends)
        await scene.ended(proxy, client)
        assert outcome.again or attempts(proxy, "failed", "ended") == 1
        assert attempts(proxy, "reopened") == 0


PLAYED = {Column.FIRST: first_opening, Column.ONCE: first_opening, Column.AGAIN: asked_again}


def scenes_of(row: Answers, column: Column, names: Names) -> list[Scene]:
    """Those of one cell. Where upstream is asked again, that is seen where it mends; where it does not, those
    that have no status yet see what comes of one attempt, since the end of a window is a matter of luck.
    """
    outcome = row.follows.of(column)
    first = getattr(row.follows.first, "again", False)
    again = first if column is Column.EARLY else getattr(outcome, "again", False)
    scenes = []
    for way in row.ways:
        for asking in ASKING[column]:
            scene = Scene(names, asking, way, outcome)
            asks_first = first and asking.hears_events and asking.when != "off"
            if column is Column.EARLY and not scene.waits and not asks_first:
                continue  # no early commit is as early as that: it is the first opening's outcome
            last = column in (Column.FIRST, Column.EARLY) and asks_first and scene.waits
            scenes.append(
                replace(scene, delay=NEVER if last or (column is Column.FIRST and first) else AT_ONCE)
            )
            if again and (asks_first or column is not Column.EARLY):
                scenes.append(replace(scene, mends=True))
    return scenes


@pytest.mark.parametrize("column", list(Column))
@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row.ways[0].name)
def test_what_upstream_answers_has_the_outcome_of_the_table(
    row: Answers, column: Column, names: Names
) -> None:
    loop = "asyncio" if row.ways[0].does is Trouble.UNKNOWN_NAME else "uvloop"
    play = PLAYED.get(column, behind_an_early_commit)
    on_loop(loop, all_of(play, scenes_of(row, column, names)), within=60)


@ON_BOTH
def test_what_came_last_counts(loop: str, names: Names) -> None:
    last = response("502 Bad Gateway", b"the last", "retry-after: 3600")
    way = Way("a 503, then a 502", (last,), 502, b"the last")

    async def play() -> None:
        scene = Scene(names, NO_ID, way, Passes(again=True))
        begin: Script = [GOT_REQUEST, response("503 Service Unavailable", b"the first")]
        async with scene.route(begin) as (upstream, proxy), scene.client(proxy) as client:
            upstream.scripts.append([GOT_REQUEST, last])
            await scene.answered(proxy, client)
            assert len(upstream.connections) == 2

    on_loop(loop, play())


# How a stream is lost.


async def lost(scene: Scene, row: Loss) -> None:
    asking = scene.asking
    coded = b"chunked" in row.head
    first = chunk(asking.blocks) if coded else asking.blocks
    script: Script = [GOT_REQUEST, row.head, first, go := asyncio.Event(), *row.does]
    async with scene.route(script, stream=row.stream) as (upstream, proxy), scene.client(proxy) as client:
        await client.wait_for(lambda client: asking.blocks in client.body)
        upstream.scripts[:] = [WELL]
        go.set()
        if isinstance(scene.outcome, GoesOn):
            await client.wait_for(lambda client: LATER in client.body, within=15)
            scene.told_of_gap(client, row.reason)
            again = await upstream.connection(1)
            assert (await again.request()).header("last-event-id") == (asking.sends or None)
            heard = [event.data for event in client.events if event.type == "message"]
            assert heard == ["1", "later"]
            await scene.runs(proxy, client, 200)
        else:
            await scene.ended(proxy, client)
            assert [event.data for event in client.events if event.type == "message"] == ["1"]
            assert len(upstream.connections) == 1
        assert b"secret" not in client.received


@ON_BOTH
@pytest.mark.parametrize("row", LOSSES, ids=lambda row: row.title)
def test_a_lost_stream_ends_or_goes_on_as_the_table_says(row: Loss, loop: str, names: Names) -> None:
    way = Way(row.title, (), 200)
    unheard = (OFF,) if "reconnect" in row.stream else ()  # a configuration that contradicts itself
    alone = [Scene(names, asking, way, Ends(row.reason)) for asking in LEFT_ALONE if asking not in unheard]
    kept = [Scene(names, asking, way, row.kept) for asking in ASKED_AGAIN]
    on_loop(loop, all_of(lambda scene: lost(scene, row), [*alone, *kept]), within=60)


# Whose upstream is asked again.


def scene_of(row: Who, when: str, again: Again, names: Names) -> Scene:
    sends = row.sends if again is Again.FROM_ID else ""
    asking = Asking(when, row.headers, row.method, row.body, row.blocks, sends)
    outcome = Ends(CloseReason.UPSTREAM_END) if again is Again.NOT else GoesOn()
    return Scene(names, asking, WELL_AGAIN, outcome)


WELL_AGAIN = Way("well", (stream_head() + chunk(LATER),), 200)


async def asked_with(scene: Scene) -> None:
    asking = scene.asking
    begun: Script = [GOT_REQUEST, stream_head(), chunk(asking.blocks), LAST_CHUNK]
    async with scene.route(begun) as (upstream, proxy), scene.client(proxy) as client:
        upstream.scripts.append(WELL)
        if isinstance(scene.outcome, Ends):
            await scene.ended(proxy, client)
            assert len(upstream.connections) == 1
            return
        await client.wait_for(lambda client: LATER in client.body, within=15)
        scene.told_of_gap(client, CloseReason.UPSTREAM_END)
        again = await upstream.connection(1)
        assert (await again.request()).header("last-event-id") == (asking.sends or None)
        await scene.runs(proxy, client, 200)


@ON_BOTH
@pytest.mark.parametrize("row", WHO, ids=lambda row: row.title)
def test_upstream_is_asked_again_for_whom_the_table_says(row: Who, loop: str, names: Names) -> None:
    ways = {"off": row.off, "resumable": row.resumable, "always": row.always}
    scenes = [scene_of(row, when, again, names) for when, again in ways.items()]
    on_loop(loop, all_of(asked_with, scenes), within=60)
