"""A request of a stream route until its stream has begun: it reserves a place among the streams, opens
upstream, identifies the client, and makes the response head.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from sse_keepalive_proxy.errors import UpstreamError
from sse_keepalive_proxy.gateway.attempts import first_answer
from sse_keepalive_proxy.gateway.credentials import fingerprint
from sse_keepalive_proxy.gateway.identity import LEEWAY, Holder, TokenRejection
from sse_keepalive_proxy.gateway.json_body import JsonBody
from sse_keepalive_proxy.gateway.sharing import Groups, SharedOpening, ask_without_id, known_id
from sse_keepalive_proxy.gateway.state import Process, ReadyRoute
from sse_keepalive_proxy.gateway.upstream_request import own_id, without_id
from sse_keepalive_proxy.http.attempts import Answer, Attempt, LetGo, abandon
from sse_keepalive_proxy.http.connection import ClientConnection
from sse_keepalive_proxy.http.cursors import find_cursors
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.http.headers import Header, encode_head, stream_head
from sse_keepalive_proxy.http.request import ClientRequest
from sse_keepalive_proxy.http.response import EVENT_STREAM, ResponseHead
from sse_keepalive_proxy.http.responses import retry_after
from sse_keepalive_proxy.live.early_commit import EarlyCommit
from sse_keepalive_proxy.live.leave_notice import LeaveNotice
from sse_keepalive_proxy.live.reconnect import Reconnection
from sse_keepalive_proxy.live.route import StreamRoutes
from sse_keepalive_proxy.live.stream import Stream
from sse_keepalive_proxy.observe.line import redact_target
from sse_keepalive_proxy.stream.families import (
    Family,
    LateError,
    accepts_streams,
    is_library,
    recognise,
    terminator_for,
)
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import OnRefusal, ReconnectWhen, Verify

__all__ = ["StreamRefused", "StreamRequest"]

logger = logging.getLogger("sse_keepalive_proxy.gateway")

_QUICK_TUNNEL = b".trycloudflare.com"
_EARLY_FIELDS = [(b"Content-Type", EVENT_STREAM)]

StreamRefused = tuple[int, str, tuple[Header, ...]]
"""An answer without asking upstream: status, text, further fields."""


class StreamRequest:
    """One request that becomes a stream if upstream answers with one."""

    __slots__ = (
        "_body",
        "_client",
        "_connection",
        "_credential",
        "_holder",
        "_process",
        "_request",
        "_route",
        "_shared",
        "_stream",
        "_stream_route",
        "_streams",
        "has_begun",
    )

    def __init__(
        self,
        process: Process,
        connection: ClientConnection,
        request: ClientRequest,
        route: ReadyRoute,
        streams: StreamRoutes,
        client: str,
    ) -> None:
        self._process, self._connection, self._request = process, connection, request
        self._route, self._client, self._streams = route, client, streams
        family = streams.policy.client
        if family is Family.AUTO:
            family = recognise(request.method, has_body=request.has_body, named=request.named)
        named = request.named
        self._stream_route = streams.for_client(
            family, terminator_for(family, named), library=is_library(family, named)
        )
        self._stream: Stream | None = None
        self._shared: SharedOpening | None = None  # until upstream has answered with a stream
        self._holder: Holder | TokenRejection | None = None
        self._credential = b""  # its fingerprint, when it has been needed
        self.has_begun = False  # then the stream removes itself from the registry
        self._body = self._look_into_body()

    # The request's body.

    def _look_into_body(self) -> JsonBody | None:
        """Return what reads the request's body while it passes, or None if nothing in it is needed."""
        if not self._request.has_body:
            return None
        if self._stream_route.gets.error is LateError.JSON_RPC:
            return JsonBody("id", "method")
        return JsonBody("stream", "jsonrpc") if self._may_commit_early() else None

    def look(self, data: bytes) -> None:
        """Look at a part of the request's body, before it is forwarded unchanged."""
        if self._body is not None and not self._body.over:
            self._body.feed(data)

    def _request_id(self) -> str | int | None:
        """Return the id of a JSON-RPC request. A notification, a response and a batch have none."""
        if self._body is None or self._body.unread:
            return None
        found = self._body.found
        request_id = found.get("id")
        known = isinstance(found.get("method"), str) and isinstance(request_id, str | int)
        return request_id if known and not isinstance(request_id, bool) else None

    def _wants_stream(self) -> bool:
        """Whether the request, whose body has passed, asks for a stream (behaviour.md#early-commit)."""
        request, body = self._request, self._body
        accepts = request.is_repeatable or accepts_streams(request.named)
        if body is None:
            return accepts
        if body.unread or "jsonrpc" in body.found or request.is_encoded:
            return False
        wants: bool = body.found.get("stream", accepts) is True
        return wants

    # The place among the streams.

    def reserve(self, head: bytes) -> StreamRefused | None:
        """Reserve a place among the streams. Return the answer if that is refused. `head` is for upstream."""
        request, streams = self._request, self._process.streams
        if request.method == "HEAD" and self._stream_route.policy.refuse_head:
            return 405, "HEAD is refused here", ((b"Allow", b"GET"),)
        if request.method == "GET" and request.host.partition(b":")[0].lower().endswith(_QUICK_TUNNEL):
            self._through_quick_tunnel()
        rejected = streams.refusal(self._client)
        if rejected is not None:
            self._route.metrics.streams_rejected[rejected] += 1
            text = f"there is no room for another stream (limits.{rejected})"
            return 503, text, (retry_after(),)
        if self._route.groups is not None:
            self._shared = self._sharing(self._route.groups, head)
        self._stream = Stream(
            self._stream_route,
            stream_id=f"{random.getrandbits(64):016x}",
            client=self._client,
            target=redact_target(request.target),
            reconnection=self._reconnection(head),
        )
        self._stream.notice = self._notice(self._stream.stream_id)
        self._expect_messages(self._stream)
        streams.add(self._stream)
        return None

    def _notice(self, stream_id: str) -> LeaveNotice | None:
        """Return what is published when the client has gone, if upstream has accepted it by then."""
        publish, bridge = self._stream_route.policy.publish, self._route.bridge
        if publish is None or bridge is None or not isinstance(holder := self._identified(), Holder):
            return None
        return bridge.notice(publish, holder.claims, {"stream_id": stream_id, "route": self._route.name})

    def _expect_messages(self, stream: Stream) -> None:
        """Let the bridge keep what comes for the client until upstream has accepted it."""
        if self._route.bridge is not None and isinstance(holder := self._identified(), Holder):
            self._route.bridge.expect(stream.flow, holder.claims)

    @property
    def let_go(self) -> LetGo:
        """What becomes of an exchange whose client has gone."""
        policy = self._stream_route.policy
        if self._stream is None or (policy.hold is None and policy.publish is None):
            return Exchange.close
        return self._stream.let_go

    def release(self) -> None:
        """Release the place, unless the stream has begun."""
        if self._stream is not None and not self.has_begun:
            self._process.streams.remove(self._stream)
            self._stream.flow.retire()
            self._stream = self._shared = None

    def _through_quick_tunnel(self) -> None:
        self._route.metrics.quick_tunnel_requests += 1
        if self._route.name not in self._process.warned:
            self._process.warned.add(self._route.name)
            logger.warning(
                "a stream was requested through a Quick Tunnel (*.trycloudflare.com), which buffers every "
                "response to a GET until its end: use a named tunnel",
                extra=self._where(),
            )

    def _reconnection(self, head: bytes) -> Reconnection | None:
        """Return how to reconnect to upstream, or None. Requests with a body are never sent again."""
        policy, request = self._stream_route.policy.reconnect, self._request
        if policy is not None and request.is_repeatable:
            bare, known = without_id(head), known_id(request, self._streams.policy.share)
            cursors = find_cursors(bare, policy.cursors)
            always = policy.when is ReconnectWhen.ALWAYS
            make = None if self._shared is None else self._make_shared
            return Reconnection(self._route.target, policy, bare, known, cursors, always=always, make=make)
        return Reconnection(self._route.target, policy, always=False) if self._may_commit_early() else None

    def _sharing(self, groups: Groups, head: bytes) -> SharedOpening | None:
        """Return how the client gets a place in a group, or None if it needs a stream of its own."""
        route, streams = self._route, self._streams
        return SharedOpening.of(
            groups, route.target, streams, self._request, head, self._identified, route.bridge
        )

    async def _make_shared(self, attempt: Attempt) -> Answer:
        return await (attempt.make() if self._shared is None else self._shared.open(attempt, Attempt.make))

    # The first opening.

    @property
    def takes_turn(self) -> bool:
        """Whether upstream is asked for a stream in turn (behaviour.md#openings-take-turns)."""
        request, family = self._request, self._stream_route.family
        if request.has_body or request.upgrade:
            return False
        return family is Family.BROWSER or accepts_streams(request.named)

    def open(self, attempt: Attempt) -> Coroutine[Any, Any, Answer]:
        """Return upstream's answer, or a place in a group whose upstream has answered before.

        Raises `UpstreamError`.
        """
        if self._shared is not None:
            return self._shared.open(attempt, self._ask)
        request = self._request
        if known_id(request, self._streams.policy.share) != own_id(request):
            return ask_without_id(attempt, self._ask)
        return self._ask(attempt)

    def _ask(self, attempt: Attempt) -> Coroutine[Any, Any, Answer]:
        """Return upstream's answer. Retry for a browser, which stops for ever after an error status."""
        policy = self._stream_route.policy.reconnect
        if policy is None or policy.first_within is None or not self._request.is_repeatable:
            return attempt.make()  # a coroutine of this module would be compiled, and cost more
        return first_answer(
            attempt,
            policy,
            failed=self._failed_once,
            leaving=self._process.streams.leaving,
            openings=self._route.target.openings,
        )

    def _failed_once(self, cause: UpstreamError | ResponseHead) -> None:
        if isinstance(cause, UpstreamError):
            self._route.metrics.upstream_error(cause)
        why = str(cause) if isinstance(cause, UpstreamError) else f"it answered with status {cause.status}"
        logger.info("upstream has not answered with a stream, trying again: %s", why, extra=self._where())

    # The early commit.

    @property
    def early(self) -> EarlyCommit | None:
        """The early commit, or None if one was refused for this credential (behaviour.md#early-commit)."""
        policy = self._stream_route.policy.early_commit
        if policy is None or not self._may_commit_early() or self._fingerprint() in self._process.refused:
            return None
        return EarlyCommit(policy.after, self._wants_stream, self._accepted_late, self._refused_late)

    def _may_commit_early(self) -> bool:
        policy, request = self._stream_route.policy.early_commit, self._request
        if policy is None or request.method == "HEAD" or request.upgrade:  # neither can get a body
            return False
        return request.method in policy.methods

    def _fingerprint(self) -> bytes:
        if not self._credential:
            places, route = self._stream_route.policy.credential, self._route.name
            self._credential = fingerprint(self._process.key, route, self._request, places, self._client)
        return self._credential

    def commit_early(self, opening: asyncio.Task[Answer], early: EarlyCommit) -> None:
        """Answer 200 before upstream has answered."""
        served = self._served_without_upstream()
        stream = self._begin()
        if stream is None:
            abandon(opening)
        else:
            head = self._head(b"HTTP/1.1 200 OK", _EARLY_FIELDS)
            stream.commit_early(head, opening, early, confirm=served)
        self._count(200)

    def _served_without_upstream(self) -> bool:
        """Give the stream a place at the bridge before upstream has accepted the client, if its token has a
        valid signature. Return whether it has one (behaviour.md#served-without-upstream).
        """
        bridge, stream, policy = self._route.bridge, self._stream, self._stream_route.policy.identity
        if bridge is None or not bridge.fills or stream is None:
            return False
        if policy is None or policy.verify is not Verify.JWT:
            return False
        holder = self._identified()
        if not isinstance(holder, Holder):
            return False
        stream.claims = holder.claims
        bridge.serve(stream.flow, holder.claims)
        return stream.flow.bridge is not None

    def _accepted_late(self) -> None:
        self._shared = None
        self._process.refused.discard(self._fingerprint())
        if self._stream is not None:
            self._identify(self._stream)

    def _refused_late(self) -> None:
        self._process.refused.add(self._fingerprint())

    # The stream.

    def commit(self, answer: Answer, first_line: bytes) -> None:
        """Begin the stream with upstream's answer: write the head and the confirm."""
        self._shared = None  # the two refer to each other
        if self._may_commit_early():
            self._process.refused.discard(self._fingerprint())
        if self._stream is not None:
            self._identify(self._stream)  # before the head: an exception can still be answered
        stream = self._begin()
        if stream is None:
            answer.forsake()
        else:
            stream.commit(self._head(first_line, answer.head.headers), answer.body, answer.gap)
        self._count(answer.head.status)

    def _begin(self) -> Stream | None:
        """Give the client's connection to the stream. Return the stream, or None if the client has left."""
        stream, connection = self._stream, self._connection
        if stream is None or self.has_begun:
            raise AssertionError("a stream begins once, after `reserve`")
        self.has_begun = True
        stream.request_id = self._request_id()
        if not stream.begin(connection.lend, chunked=not self._request.http10):
            return None
        self._process.streams.begun(stream)
        return stream

    def _head(self, first_line: bytes, headers: Sequence[Header]) -> bytes:
        fields = stream_head(headers)
        if self._route.cors is not None:
            fields = self._route.cors.own(self._request.headers, fields)
        if not self._request.http10:
            fields.append((b"Transfer-Encoding", b"chunked"))
        return self._connection.unsent(encode_head(first_line, [*fields, (b"Connection", b"close")]))

    def _identify(self, stream: Stream) -> None:
        """Identify the client of a request that upstream has accepted."""
        holder, policy = self._identified(), self._stream_route.policy.identity
        if holder is None or policy is None:
            return
        self._holder = None  # a stream lives long
        if isinstance(holder, TokenRejection):
            self._token_rejected(holder)
            lives = 0.0 if holder is TokenRejection.EXPIRED else None
        else:
            stream.claims = holder.claims
            if self._route.bridge is not None:
                self._route.bridge.serve(stream.flow, holder.claims)
            lives = holder.lives(time.time())
        at = None
        if lives is not None:  # upstream may still accept an expired token: servers allow some leeway
            at = asyncio.get_running_loop().time() + (lives or LEEWAY)
        if policy.close_at_expiry and at is not None:
            stream.leave(at, CloseReason.UNAUTHORIZED)
        reconnect = self._stream_route.policy.reconnect
        if reconnect is not None and reconnect.on_refusal is OnRefusal.KEEP and isinstance(holder, Holder):
            stream.keep_until(math.inf if at is None else at)

    def _identified(self) -> Holder | TokenRejection | None:
        """Return the holder of the request's token, or why it is rejected. None without `identity`."""
        if self._holder is None and self._route.identifier is not None:
            self._holder = self._route.identifier.identify(self._request)
        return self._holder

    def encoded(self) -> None:
        """Count and log a stream with a content coding that is not removed."""
        self._route.metrics.uninspectable_streams += 1
        logger.warning(
            "upstream encodes its event stream despite `Accept-Encoding: identity`: it gets no pings "
            "(`decode: on` decodes one coding of gzip, deflate, br, zstd)",
            extra=self._where(),
        )

    def _token_rejected(self, why: TokenRejection) -> None:
        key = f"{self._route.name}: {why.name}"
        if why.may_be_ours and key not in self._process.warned:
            self._process.warned.add(key)
            logger.warning(
                "upstream accepted a request whose token the proxy rejects, so the client has no claims: %s",
                why.value,
                extra=self._where(),
            )

    def _count(self, status: int) -> None:
        self._process.metrics.answered(self._route.name, self._request.method, status)

    def _where(self) -> dict[str, dict[str, str]]:
        target = redact_target(self._request.target)
        return {"fields": {"route": self._route.name, "client": self._client, "target": target}}
