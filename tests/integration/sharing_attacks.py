"""Attacks on shared streams and their logs, each played on the real server by `test_sharing_attacks.py`.

The victim's stream is open, and its group has a log. Upstream has sent a secret to the victim, and sends
another one after the attack. The page `docs/reference/sharing-attacks.md` is generated from this table: run
this module to print it.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias
from unittest.mock import patch

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sse_keepalive_proxy.gateway.identity import LEEWAY
from tests.support.http1 import Request
from tests.support.instance import Instance
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import RawUpstream, UpstreamConnection, chunk, response, stream_head
from tests.support.running import soon

__all__ = ["ATTACKS", "Asks", "Attack", "Mode", "Staged", "markdown", "staged", "token"]

SECRET = b"data: secret\n\n"
OURS, ANOTHER = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
_LIVES = 3600.0  # seconds


class Mode(StrEnum):
    """What a route shares by, and what proves a claim."""

    CREDENTIAL = "by: credential"
    IDENTIFIED = "by: credential, verify: jwt"
    JWT = "by: claim:user.id, verify: jwt"
    UPSTREAM = "by: claim:user.id, verify: upstream"


CLAIMS = (Mode.JWT, Mode.UPSTREAM)
EVERY = (Mode.CREDENTIAL, *CLAIMS)


def token(
    user: object = 7, *, lives: float = _LIVES, key: ed25519.Ed25519PrivateKey = OURS, n: int = 0
) -> str:
    """A token of `user`. `n` makes several of them."""
    claims = {"user": {"id": user}, "exp": time.time() + lives, "n": n}
    return jwt.api_jws.encode(json.dumps(claims).encode(), key, algorithm="EdDSA")


@dataclass(frozen=True, slots=True)
class Asks:
    """A request for a stream."""

    path: str = "/events/a"
    query: str = ""
    token: str | None = None
    host: str = "a.example"
    headers: tuple[str, ...] = ()
    method: str = "GET"

    def back(self, last_id: str) -> Asks:
        """The same with a last event id."""
        return replace(self, headers=(*self.headers, f"Last-Event-ID: {last_id}"))


@dataclass(slots=True)
class Staged:
    """The victim, its upstream, and the proxy between them. `refuses`: what upstream answers 401."""

    upstream: RawUpstream
    stack: AsyncExitStack
    head: bytes = field(default_factory=stream_head)
    refuses: Callable[[Request], bool] = lambda _: False
    proxy: Instance = field(init=False)
    token: str = field(default_factory=token)

    async def serve(self, connection: UpstreamConnection) -> None:
        request = await connection.next_request()
        if self.refuses(request):
            await connection.send(response("401 Unauthorized", b"no"))
        else:
            await connection.send(self.head)

    async def ask(self, asks: Asks) -> RawClient:
        """Ask for a stream, as a browser does."""
        client = await self.stack.enter_async_context(await self.proxy.client())
        given = self.token if asks.token is None else asks.token
        query = "&".join(part for part in (f"access_token={given}" if given else "", asks.query) if part)
        lines = (f"Host: {asks.host}", "Accept: text/event-stream", "Cache-Control: no-cache", *asks.headers)
        client.request(f"{asks.path}?{query}", *lines, method=asks.method)
        return client

    async def opened(self, asks: Asks) -> RawClient:
        """Ask for a stream, and get it."""
        client = await self.ask(asks)
        await client.wait_for(b"connection_confirmed")
        return client

    async def victim(self, asks: Asks) -> tuple[RawClient, UpstreamConnection, str]:
        """The victim after the first secret, its upstream, and the id of the secret."""
        client = await self.opened(asks)
        connection = await self.upstream.connection(len(self.upstream.connections) - 1)
        await connection.send(chunk(SECRET))
        await client.wait_for(b"secret")
        return (
            client,
            connection,
            next(event.last_event_id for event in client.events if event.data == "secret"),
        )

    async def hears_nothing(
        self, attacker: RawClient, victim: tuple[RawClient, UpstreamConnection, str]
    ) -> None:
        """The attacker has a stream of its own: neither hears what upstream sends to the other one."""
        client, connection, _ = victim
        own = self.upstream.connections[-1]
        assert own is not connection
        await connection.send(chunk(b"data: later secret\n\n"))
        await client.wait_for(b"later secret")
        await own.send(chunk(b"data: own\n\n"))
        await attacker.wait_for(b"data: own")
        assert b"secret" not in attacker.received
        assert b"data: own" not in client.received

    async def is_refused(self, attacker: RawClient) -> None:
        await attacker.wait_response()
        assert attacker.response.status == 401
        assert b"secret" not in attacker.received


Play: TypeAlias = Callable[[Staged], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Attack:
    """One row: what the attacker does, what comes of it, and how it is played. `stream`: further keys."""

    name: str
    outcome: str
    play: Play
    modes: Sequence[Mode] = EVERY
    stream: str = ""


@asynccontextmanager
async def staged(mode: Mode, folder: Path, attack: Attack) -> AsyncIterator[Staged]:
    """The scene of an attack."""
    key = folder / "public.pem"
    key.write_bytes(OURS.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    by_key = f"jwt, public_key_file: '{key}'"
    verify = {Mode.IDENTIFIED: by_key, Mode.JWT: by_key, Mode.UPSTREAM: "upstream"}
    by = "'claim:user.id'" if mode in CLAIMS else "credential"
    stream = [f"share: {{by: {by}, replay: {{ids: add}}}}"]
    if mode in verify:
        stream.append(f"identity: {{from: 'query:access_token', verify: {verify[mode]}}}")
    stream += [attack.stream] if attack.stream else []
    async with AsyncExitStack() as stack:
        upstream = RawUpstream()
        scene = Staged(upstream, stack)
        upstream.scripts = [scene.serve]
        await stack.enter_async_context(upstream)
        shared = "".join(f"      {line}\n" for line in stream)
        config = f"upstreams: {{up: {{url: '{upstream.url}'}}}}\nroutes:\n" + "".join(
            f"  - name: {name}\n    match: {{path: '/{name}/*'}}\n    upstream: up\n    stream:\n{shared}"
            for name in ("events", "eventz")
        )
        scene.proxy = await stack.enter_async_context(Instance(config))
        yield scene


# One byte.

_KEY, _SESSION = "X-Api-Key: ", "Mcp-Session-Id: "
_ONE_BYTE: tuple[tuple[str, Asks, Asks], ...] = (
    ("path", Asks(), Asks(path="/events/b")),
    ("route", Asks(), Asks(path="/eventz/a")),
    ("query", Asks(query="chat=1"), Asks(query="chat=2")),
    ("host", Asks(), Asks(host="b.example")),
    ("cookie", Asks(headers=("Cookie: id=1",)), Asks(headers=("Cookie: id=2",))),
    (
        "`Authorization`",
        Asks(headers=("Authorization: Basic YQ==",)),
        Asks(headers=("Authorization: Basic YR==",)),
    ),
    ("`X-Api-Key`", Asks(headers=(_KEY + "1",)), Asks(headers=(_KEY + "2",))),
)


def _one_byte(victim: Asks, attacker: Asks) -> Play:
    async def play(scene: Staged) -> None:
        there = await scene.victim(victim)
        await scene.hears_nothing(await scene.opened(attacker), there)
        again = await scene.opened(attacker.back(there[2]))
        await again.wait_for(b"stream_gap")
        assert b"secret" not in again.received
        assert b"skp-" not in scene.upstream.connections[-1].received

    return play


async def _other_token(scene: Staged) -> None:
    there = await scene.victim(Asks())
    last = "A" if scene.token[-2] != "A" else "Q"
    forged = scene.token[:-2] + last + scene.token[-1]
    scene.refuses = lambda request: forged in request.target
    for asks in (Asks(token=forged), Asks(token=forged).back(there[2])):
        await scene.is_refused(await scene.ask(asks))


async def _other_token_accepted(scene: Staged) -> None:
    there = await scene.victim(Asks())
    other = token(8)
    await scene.hears_nothing(await scene.opened(Asks(token=other)), there)
    again = await scene.opened(Asks(token=other).back(there[2]))
    await again.wait_for(b"stream_gap")
    assert b"secret" not in again.received


async def _other_method(scene: Staged) -> None:
    there = await scene.victim(Asks())
    for method in ("HEAD", "POST"):
        client = await scene.ask(replace(Asks(), method=method).back(there[2]))
        await client.wait_for(b"\r\n\r\n")
        assert scene.upstream.connections[-1].requests[0].method == method
        assert b"secret" not in client.received


# Tokens.


async def _forged(scene: Staged) -> None:
    there = await scene.victim(Asks())
    forged = token(key=ANOTHER)
    scene.refuses = lambda request: forged in request.target
    for asks in (Asks(token=forged), Asks(token=forged).back(there[2])):
        await scene.is_refused(await scene.ask(asks))
    assert scene.proxy.metric("share_groups") == 1


async def _forged_accepted(scene: Staged) -> None:
    there = await scene.victim(Asks())
    forged = token(key=ANOTHER)
    await scene.hears_nothing(await scene.opened(Asks(token=forged)), there)
    again = await scene.opened(Asks(token=forged).back(there[2]))
    await again.wait_for(b"stream_gap")
    assert b"secret" not in again.received


async def _revoked(scene: Staged) -> None:
    newer, revoked = token(n=1), token(n=2)
    clients = [await scene.opened(Asks(token=each)) for each in (scene.token, newer, revoked)]
    again = await scene.opened(Asks(token=revoked))  # it has been accepted twice
    scene.refuses = lambda request: revoked in request.target
    await scene.upstream.connections[-1].send(b"0\r\n\r\n")
    for client in (clients[2], again):
        await client.wait_end()
        assert b'"reason":"unauthorized"' in client.received
    await scene.proxy.until(lambda: scene.proxy.metric("upstream_reconnects_total", result="reopened") == 1)
    last = scene.upstream.connections[-1]
    assert newer in (await last.request()).target  # the next newest
    await last.send(chunk(b"data: secret\n\n"))
    for client in clients[:2]:
        await client.wait_for(b"secret")
    assert scene.proxy.closed() == {"unauthorized": 2}


async def _expired(scene: Staged) -> None:
    there = await scene.victim(Asks())
    joined = await scene.opened(Asks())
    assert len(scene.upstream.connections) == 1
    await joined.close()
    now = time.time
    with patch.object(time, "time", lambda: now() + _LIVES):  # on any machine later than the token lives
        again = await scene.opened(Asks().back(there[2]))
        assert len(scene.upstream.connections) == 2
        await again.wait_for(b"stream_gap")  # upstream accepts it still, and the log does not
        assert b"secret" not in again.received
        scene.refuses = lambda _: True
        await scene.is_refused(await scene.ask(Asks().back(there[2])))


async def _expired_long_ago(scene: Staged) -> None:
    asks = Asks(token=token(lives=-2 * LEEWAY))
    there = await scene.victim(asks)
    again = await scene.opened(asks.back(there[2]))
    assert len(scene.upstream.connections) == 2
    await again.wait_for(b"stream_gap")
    assert b"secret" not in again.received
    await scene.upstream.connections[-1].send(chunk(b"data: 2\n\n"))
    for client in (there[0], again):  # neither is ended for it
        await client.wait_for(b"data: 2")
    scene.refuses = lambda _: True
    await scene.is_refused(await scene.ask(asks))


# What is given twice.


def _twice(victim: Asks, attacker: Asks) -> Play:
    async def play(scene: Staged) -> None:
        there = await scene.victim(victim)
        attacker_of = replace(attacker, query=attacker.query.replace("TOKEN", scene.token))
        await scene.hears_nothing(await scene.opened(attacker_of), there)
        again = await scene.opened(attacker_of.back(there[2]))
        await again.wait_for(b"stream_gap")
        assert b"secret" not in again.received
        assert b"skp-" not in scene.upstream.connections[-1].received

    return play


async def _id_twice(scene: Staged) -> None:
    there = await scene.victim(Asks())
    client = await scene.opened(Asks().back(there[2]).back("1"))
    await scene.hears_nothing(client, there)


async def _cursor(scene: Staged) -> None:
    there = await scene.victim(Asks())
    client = await scene.opened(Asks(query="lastEventId=1"))
    await scene.hears_nothing(client, there)


# Ids.


async def _id_of_another_log(scene: Staged) -> None:
    there = await scene.victim(Asks())
    own = Asks(token=token(8))
    first = await scene.opened(own)
    again = await scene.opened(own.back(there[2]))
    await again.wait_for(b"stream_gap")
    assert b'"reason":"unknown"' in again.received
    assert b"secret" not in first.received + again.received


async def _cursor_of_another_log(scene: Staged) -> None:
    there = await scene.victim(Asks())
    client = await scene.opened(Asks(token=token(8), query="lastEventId=" + there[2]))
    await client.wait_for(b"stream_gap")
    assert b'"reason":"unknown"' in client.received
    assert b"skp-" not in scene.upstream.connections[-1].received
    await scene.hears_nothing(client, there)


async def _guessed(scene: Staged) -> None:
    there = await scene.victim(Asks())
    own = Asks(token=token(8))
    for guessed in (there[2][:-1] + "0", there[2][:-1] + "999999", "skp-00000000-1", "skp-00000000-000"):
        client = await scene.opened(own.back(guessed))
        await client.wait_for(b"stream_gap")
        assert b"secret" not in client.received
    assert not any(b"skp-" in connection.received for connection in scene.upstream.connections)


# What upstream has said to another client.


async def _cookies(scene: Staged) -> None:
    scene.head = stream_head("Set-Cookie: session=victim", "set-cookie: two=2", "X-Kept: 1")
    first, _, _ = await scene.victim(Asks())
    joined = await scene.opened(Asks())
    assert len(scene.upstream.connections) == 1
    assert b"session=victim" in first.received
    assert b"session=victim" not in joined.received
    assert b"two=2" not in joined.received
    assert b"X-Kept: 1" in joined.received


async def _origin(scene: Staged) -> None:
    scene.head = stream_head("Access-Control-Allow-Origin: https://a.example")
    await scene.victim(Asks(headers=("Origin: https://a.example",)))
    scene.head = stream_head()
    other = await scene.opened(Asks(headers=("Origin: https://b.example",)))
    assert len(scene.upstream.connections) == 2
    assert b"Access-Control-Allow-Origin" not in other.received


async def _vary(scene: Staged) -> None:
    scene.head = stream_head("Vary: Accept-Language, X-Forwarded-For")
    german = Asks(headers=("Accept-Language: de",))
    there = await scene.victim(german)
    await scene.opened(german)
    assert len(scene.upstream.connections) == 1
    french = Asks(headers=("Accept-Language: fr",))
    elsewhere = replace(german, headers=(*german.headers, "X-Forwarded-For: 192.0.2.1"))
    for asks in (french, elsewhere):
        await scene.hears_nothing(await scene.opened(asks), there)
        again = await scene.opened(asks.back(there[2]))
        await again.wait_for(b"stream_gap")
        assert b"secret" not in again.received
    assert len(scene.upstream.connections) == 5


# Memory.


async def _many(scene: Staged) -> None:
    await scene.victim(Asks())
    scene.refuses = lambda _: True
    for n in range(50):
        await scene.is_refused(await scene.ask(Asks(token=token(n=n + 1))))
    [(_, groups)] = [known for route, known in scene.proxy.proxy._process.groups.items() if route == "events"]
    await soon(lambda: len(groups._openings) == 0)
    assert (len(groups._groups), len(groups._accepted)) == (1, 1)


OWN = "upstream is asked; a stream of its own, without a byte of the group or of its log"
REFUSED = "upstream is asked, and its refusal passes unchanged"
ATTACKS: tuple[Attack, ...] = (
    *(
        Attack(f"the request differs in one byte: {what}", OWN, _one_byte(victim, attacker))
        for what, victim, attacker in _ONE_BYTE
    ),
    Attack(
        "the request differs in one byte: `Mcp-Session-Id`",
        OWN,
        _one_byte(Asks(headers=(_SESSION + "1",)), Asks(headers=(_SESSION + "2",))),
        stream="client: browser",
    ),
    Attack("the token differs in one byte", REFUSED, _other_token),
    Attack("the token is a valid one of another user", OWN, _other_token_accepted),
    Attack("the method differs", OWN, _other_method),
    Attack("a forged token of the same user, which upstream refuses", REFUSED, _forged, CLAIMS),
    Attack(
        "a forged token of the same user, which upstream accepts by mistake",
        OWN,
        _forged_accepted,
        (Mode.JWT,),
    ),
    Attack(
        "a token that was revoked while its streams and others of the same user are open",
        "when upstream is asked again: only the streams of this token end (`unauthorized`); the others go on "
        "with the next newest token",
        _revoked,
        CLAIMS,
        "reconnect: {when: always, delay: 10ms}",
    ),
    Attack(
        "an expired token within `trust`",
        "upstream is asked; if it still accepts the token, the client gets `stream_gap`, and nothing of the "
        "log",
        _expired,
        (Mode.IDENTIFIED, *CLAIMS),
    ),
    Attack(
        "a token that expired long ago, within `trust`",
        "upstream is asked each time; if it still accepts the token, the client gets `stream_gap`, and "
        "nothing of the log",
        _expired_long_ago,
        (Mode.IDENTIFIED, Mode.UPSTREAM),
    ),
    Attack("the token twice in the query", OWN, _twice(Asks(), Asks(query="access_token=TOKEN"))),
    Attack(
        "the token twice in the query, once under a percent-encoded name",
        OWN,
        _twice(Asks(), Asks(query="%61ccess_token=TOKEN")),
    ),
    Attack(
        "a credential header twice",
        OWN,
        _twice(Asks(headers=(_KEY + "1",)), Asks(headers=(_KEY + "1", _KEY + "1"))),
    ),
    Attack(
        "`Cookie` twice",
        OWN,
        _twice(Asks(headers=("Cookie: a=1",)), Asks(headers=("Cookie: a=1", "Cookie: a=1"))),
    ),
    Attack("`Last-Event-ID` twice", OWN, _id_twice),
    Attack("an id of upstream as a cursor in the query", OWN, _cursor),
    Attack(
        "an id of another user's log",
        "`stream_gap` with `unknown`, and nothing of that log",
        _id_of_another_log,
    ),
    Attack(
        "an id of another user's log as a cursor in the query",
        "`stream_gap` with `unknown`, and nothing of that log; upstream never gets it",
        _cursor_of_another_log,
    ),
    Attack(
        "a guessed id of the proxy's own form",
        "`stream_gap`, and nothing of any log; upstream never gets it",
        _guessed,
    ),
    Attack(
        "a client with the same credential wants the `Set-Cookie` of another one",
        "it shares the stream, and gets every header but `Set-Cookie`",
        _cookies,
    ),
    Attack(
        "a page of another origin, within `trust`", "upstream is asked, and decides about the origin", _origin
    ),
    Attack(
        "upstream has chosen its answer by other headers (`Vary`), also by the client's address",
        f"if one of them differs, {OWN}",
        _vary,
    ),
    Attack("many tokens that upstream refuses", "nothing of them is remembered", _many),
)

_INTRODUCTION = """\
# Attacks on shared streams

<!-- Written by `make docs` from `tests/integration/sharing_attacks.py`; a test plays each row. -->

With `share`, several clients read one stream of upstream, and with `share.replay` a client gets what another
one has received before ([the rules](behaviour.md#sharing)). In each row, the stream of a victim is open, and
upstream has sent a secret to it. The attacker knows the id of the secret, and tries with and without it.
"""


def markdown() -> str:
    """The page."""
    rows = [("the attacker", "what happens", "`share`"), ("---",) * 3]
    for attack in ATTACKS:
        modes = "every" if attack.modes == EVERY else "; ".join(f"`{mode}`" for mode in attack.modes)
        rows.append((attack.name, attack.outcome, modes))
    return "\n".join([_INTRODUCTION, *(f"| {' | '.join(row)} |" for row in rows), ""])


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201
