"""Which requests share one stream of upstream (behaviour.md#sharing).

Requests of one group are the same in everything that upstream can decide by: the route, the method, the
host, the target and every credential. With `share.by: claim:…` the token may differ, if upstream has accepted
it and its verified claims name the same subject. Only keyed fingerprints of requests are stored.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from operator import itemgetter

from sse_keepalive_proxy.gateway.credentials import digest, request_fingerprint
from sse_keepalive_proxy.gateway.identity import Holder, TokenRejection
from sse_keepalive_proxy.gateway.passthrough import first_line
from sse_keepalive_proxy.gateway.upstream_request import own_id, without_id
from sse_keepalive_proxy.http.attempts import Answer, Attempt, Target
from sse_keepalive_proxy.http.cursors import find_cursors, take_cursors
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.http.headers import encode_head
from sse_keepalive_proxy.http.request import ClientRequest
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.http.response_head import ResponseReader
from sse_keepalive_proxy.live.bridged import StreamBridge
from sse_keepalive_proxy.live.group import Group
from sse_keepalive_proxy.live.membership import Credential, Membership
from sse_keepalive_proxy.live.reconnect import Reconnection
from sse_keepalive_proxy.live.route import StreamRoutes
from sse_keepalive_proxy.observe.line import redact_target
from sse_keepalive_proxy.stream.claims import claim
from sse_keepalive_proxy.stream.families import takes_streams
from sse_keepalive_proxy.stream.policy import Reconnect, ReconnectWhen, ReplayIds, Share, StreamPolicy, Verify
from sse_keepalive_proxy.stream.replay_log import GapReason, ReplayLog, is_ours, position_in
from sse_keepalive_proxy.stream.states import Join
from sse_keepalive_proxy.wire import encode
from sse_keepalive_proxy.wire.framing import begins_event_stream

__all__ = ["Groups", "SharedOpening", "ask_without_id", "known_id", "with_named_id"]

_ALWAYS_VARIES = b"origin"
_ONLY_THE_HEAD = frozenset(
    (b"origin", b"access-control-request-method", b"access-control-request-headers", b"accept-encoding")
)
"""By these upstream chooses fields of the head, or the coding, but not the stream."""

_LAST_EVENT_ID = b"last-event-id"
_MAY_NAME_OURS = re.compile(r"\?.*(?:skp-|%)")


class Groups:
    """The groups of a route. `key`: the secret of all fingerprints."""

    def __init__(self, share: Share, key: bytes) -> None:
        self.share, self.key = share, key
        self._groups: dict[bytes, Group] = {}
        self._accepted: dict[bytes, tuple[Group, Credential]] = {}
        self._openings: dict[bytes, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def find(self, key: bytes) -> Group | None:
        """Return the group with this key, or None."""
        return self._groups.get(key)

    def accepted(self, fingerprint: bytes) -> tuple[Group, Credential] | None:
        """Return the group that has accepted this very request before, with its credential, or None."""
        return self._accepted.get(fingerprint)

    def add(self, group: Group) -> None:
        """Let other clients find `group`."""
        self._groups[group.key] = group

    def accept(self, group: Group, credential: Credential) -> None:
        """Note that upstream has accepted `credential` for `group`."""
        for unused in group.credentials.forget_unused(group.route.now() - self.share.trust):
            self._forget(group, unused)
        group.credentials.accept(credential)
        self._accepted[credential.fingerprint] = group, credential

    def remove(self, group: Group) -> None:
        """Let no other client find `group`. It may have been removed already."""
        if self._groups.get(group.key) is group:
            del self._groups[group.key]
        for known in group.credentials:
            self._forget(group, known)

    def _forget(self, group: Group, credential: Credential) -> None:
        known = self._accepted.get(credential.fingerprint)
        if known is not None and known[0] is group:
            del self._accepted[credential.fingerprint]

    @asynccontextmanager
    async def opening(self, fingerprint: bytes) -> AsyncIterator[None]:
        """Be the first request with this fingerprint, or wait until the first one has its answer."""
        first = self._openings.get(fingerprint)
        if first is not None:
            await asyncio.wait([first])
            yield
            return
        mine = self._openings[fingerprint] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._openings[fingerprint]
            mine.set_result(None)


@dataclass(slots=True)
class SharedOpening:
    """The opening of one request whose client may join a group.

    `identify` returns the holder of the request's token. With `share.by: claim:…` it is called as soon as the
    claims can be trusted.
    """

    groups: Groups
    target: Target
    streams: StreamRoutes
    request: ClientRequest
    identify: Callable[[], Holder | TokenRejection | None]
    bridge: StreamBridge | None
    trusts_signature: bool
    fingerprint: bytes
    key: bytes
    bare: bytes
    last_id: bytes

    @classmethod
    def of(
        cls,
        groups: Groups,
        target: Target,
        streams: StreamRoutes,
        request: ClientRequest,
        head: bytes,
        identify: Callable[[], Holder | TokenRejection | None],
        bridge: StreamBridge | None = None,
    ) -> SharedOpening | None:
        """Return the opening of `request`, or None if it must have a stream of its own. `head`: the head for
        upstream.
        """
        policy, given = streams.policy, request.named.get(_LAST_EVENT_ID, [])
        bare = without_id(head)
        if not request.is_repeatable or len(given) > 1 or find_cursors(bare, _cursors(policy)) is not None:
            return None
        if own_id(request) and groups.share.replay is None:
            return None
        identity, name = policy.identity, streams.name
        places = policy.credential
        fingerprint = request_fingerprint(groups.key, name, request, places)
        if fingerprint is None:
            return None
        key: bytes | None = fingerprint
        if groups.share.claim is not None and identity is not None:
            key = request_fingerprint(groups.key, name, request, places, but=identity.source)
        if key is None:
            return None
        signed = identity is not None and identity.verify is Verify.JWT
        return cls(
            groups,
            target,
            streams,
            request,
            identify,
            bridge,
            signed,
            fingerprint,
            key,
            bare,
            own_id(request),
        )

    @property
    def known(self) -> bytes:
        """The id with which the client returns, if it is one of upstream, otherwise `b""`."""
        return known_id(self.request, self.groups.share)

    async def open(self, attempt: Attempt, ask: Callable[[Attempt], Awaitable[Answer]]) -> Answer:
        """Return the answer for the client: its place in a group, or the answer of upstream to `ask`.

        Raises `UpstreamError`.
        """
        position = position_in(self.last_id)
        if position is not None and self.bridge is not None:
            await self.bridge.reached(position.last)
        async with self.groups.opening(self.fingerprint):
            return self._joined() or await self._asked(attempt, ask)

    def _joined(self) -> Answer | None:
        """Return a place in the group whose upstream has just accepted this request, or None."""
        group, credential = self.groups.accepted(self.fingerprint) or (None, None)
        if group is None or credential is None or group.is_full or credential.refused:
            return None
        if not takes_streams(self.request.named):
            return None
        now = asyncio.get_running_loop().time()
        if now >= credential.accepted_at + self.groups.share.trust or _expired(credential.expires_at):
            return None
        if credential.selected is None or self._selected(credential.varies) != credential.selected:
            return None
        head = ResponseReader().feed(credential.head)
        if head is None or not self._in_log(group):
            return None
        self.streams.metrics.share_joins[Join.TRUSTED] += 1
        return Answer(Membership(group, credential, last_id=self.last_id), head)

    async def _asked(self, attempt: Attempt, ask: Callable[[Attempt], Awaitable[Answer]]) -> Answer:
        group = self._known_group()
        takes = group is not None and not group.is_full and self._fits(group)
        if self.known and (group is None or not takes or not self._in_log(group)):
            answer = await ask(attempt)  # only upstream may know what came after this id
            return replace(answer, gap=GapReason.UNKNOWN) if answer.head.is_event_stream else answer
        now = asyncio.get_running_loop().time
        asked_at = now()

        def sent(_: Exchange) -> None:
            nonlocal asked_at
            asked_at = now()  # of several attempts, the last one counts

        head = group.request(self.bare) if group is not None and takes else self.bare
        answered = None if group is None else group.ask()
        try:
            answer = await ask(replace(attempt, head=head + b"\r\n", sent=sent))
            if answer.head.is_encoded or not answer.head.is_event_stream:
                return answer
            if begins_event_stream(answer.exchange.early) is False:
                return answer
            entered = self._entered(answer, asked_at, answered, resumes=head is not self.bare)
            if entered is None:
                return self._alone(answer)
            answered = None  # the place calls it
            return entered
        finally:
            if answered is not None:
                answered()

    def _entered(
        self, answer: Answer, asked_at: float, answered: Callable[[], None] | None, *, resumes: bool
    ) -> Answer | None:
        """Return a place in the group of this request, which upstream has accepted. None: it has no group,
        there is no room in it, or upstream has chosen another stream for this request.
        """
        holder = self.identify()
        key = self._group_key(holder)
        if key is None:
            return None
        group = self.groups.find(key) or self._new_group(key)
        if group.is_full or not self._fits(group, _varies(answer.head) or ()):
            return None
        expires_at = holder.expires_at if isinstance(holder, Holder) else None
        if holder is TokenRejection.EXPIRED:
            expires_at = 0.0  # long ago
        credential = self._credential(group, answer.head, expires_at)
        self.groups.accept(group, credential)
        self.streams.metrics.share_joins[Join.ASKED] += 1
        gap = GapReason.UNKNOWN if self.last_id and _expired(expires_at) else None
        place = Membership(
            group,
            credential,
            accepted=answer.body,
            asked_at=asked_at,
            answered=answered,
            resumes=resumes,
            last_id=self.last_id,
            gap=gap,
        )
        return Answer(place, answer.head)

    def _credential(self, group: Group, head: ResponseHead, expires_at: float | None) -> Credential:
        """Return the credential of this request, which upstream has accepted with `head`."""
        now, varies = asyncio.get_running_loop().time(), _varies(head)
        fields = [field for field in head.headers if field[0].lower() != b"set-cookie"]
        for_others = encode_head(first_line(head), fields)
        selected = None if varies is None else self._selected(varies)
        known = self.groups.accepted(self.fingerprint)
        if known is not None and known[0] is group:
            known[1].accepted(for_others, varies or (), selected, now)
            return known[1]
        return Credential(
            self.fingerprint,
            self.bare,
            for_others,
            varies=varies or (),
            selected=selected,
            expires_at=expires_at,
            now=now,
        )

    def _alone(self, answer: Answer) -> Answer:
        """Return the answer for a client without a group. An id of a log means nothing to upstream."""
        return replace(answer, gap=GapReason.UNKNOWN) if self.last_id else answer

    # Which group.

    def _known_group(self) -> Group | None:
        """Return the group of this request if that is certain before upstream has accepted the request."""
        if self.groups.share.claim is None:
            return self.groups.find(self.key)
        if self.trusts_signature:
            key = self._group_key(self.identify())
            return None if key is None else self.groups.find(key)
        known = self.groups.accepted(self.fingerprint)
        return None if known is None else known[0]

    def _group_key(self, holder: Holder | TokenRejection | None) -> bytes | None:
        """Return the key of the group. None: the claims of the token name no subject."""
        path = self.groups.share.claim
        if path is None:
            return self.key
        subject = claim(holder.claims, path) if isinstance(holder, Holder) else None
        if not isinstance(subject, str | int) or isinstance(subject, bool) or subject == "":
            return None
        return digest(self.groups.key, self.key, encode.json_line(subject).encode())

    def _in_log(self, group: Group) -> bool:
        """Whether the group can say what the client has missed: everything after its id, or nothing since
        the id is the proxy's own.
        """
        if not self.known:
            return True
        return group.log is not None and not isinstance(group.log.after(self.last_id), GapReason)

    def _selected(self, varies: Sequence[bytes]) -> bytes:
        """Return a fingerprint of the fields, as upstream gets them, by which it may choose its answer."""
        return digest(self.groups.key, *_fields(self.bare, {*varies, _ALWAYS_VARIES}))

    def _fits(self, group: Group, varies: Sequence[bytes] = ()) -> bool:
        """Whether this request has the same fields as that for which upstream has chosen the group's stream:
        those of `varies` and of the `Vary` of the last answer. Fields that choose no stream may differ,
        and the token of a claim.
        """
        known, identity = [*group.credentials], self.streams.policy.identity
        if not known:
            return True
        names = {*varies, *known[-1].varies} - _ONLY_THE_HEAD
        if self.groups.share.claim is not None and identity is not None:
            names.discard(identity.source.removeprefix("header:").lower().encode())
        return _fields(self.bare, names) == _fields(known[-1].bare, names)

    def _new_group(self, key: bytes) -> Group:
        share, streams = self.groups.share, self.streams
        route, policy = streams.for_group(), streams.policy.reconnect
        reconnection = None
        if policy is not None:
            always = policy.when is ReconnectWhen.ALWAYS
            reconnection = Reconnection(self.target, policy, self.bare, always=always)
        group = Group(
            route,
            share,
            key=key,
            stream_id=f"{random.getrandbits(64):016x}",
            target=redact_target(self.request.target),
            reconnection=reconnection,
            log=None if share.replay is None else ReplayLog(share.replay, f"{random.getrandbits(32):08x}"),
            over=self.groups.remove,
        )
        self.groups.add(group)
        return group


def with_named_id(request: ClientRequest, policy: StreamPolicy) -> ClientRequest:
    """Return `request` with an id of a log in its query (`reconnect.cursors`) as its `Last-Event-ID`, because
    upstream cannot know it. Any other request is returned unchanged.
    """
    replay = None if policy.share is None else policy.share.replay
    if replay is None or replay.ids is not ReplayIds.ADD or not _MAY_NAME_OURS.search(request.target):
        return request
    target, found = take_cursors(request.target.encode("latin-1"), _cursors(policy), is_ours)
    if not found:
        return request
    headers = request.headers
    if not own_id(request):
        headers = (*headers, (b"Last-Event-ID", found))
    return replace(request, target=target.decode("latin-1"), headers=headers, named={})


def _cursors(policy: StreamPolicy) -> frozenset[bytes]:
    return (policy.reconnect or Reconnect()).cursors


def known_id(request: ClientRequest, share: Share | None) -> bytes:
    """Return the client's last event id, or `b""` if it is of a log: upstream cannot know that one."""
    known, replay = own_id(request), None if share is None else share.replay
    return b"" if replay is not None and replay.ids is ReplayIds.ADD and is_ours(known) else known


async def ask_without_id(attempt: Attempt, ask: Callable[[Attempt], Awaitable[Answer]]) -> Answer:
    """Return upstream's answer for a client without a group, whose last event id is of a log.

    Raises `UpstreamError`.
    """
    answer = await ask(replace(attempt, head=without_id(attempt.head) + b"\r\n"))
    return replace(answer, gap=GapReason.UNKNOWN) if answer.head.is_event_stream else answer


def _varies(head: ResponseHead) -> tuple[bytes, ...] | None:
    """Return the names of the request fields by which upstream has chosen `head` (RFC 9110 12.5.5), or None
    if other things decide, too.
    """
    named = b",".join(head.get_all(b"vary")).lower().split(b",")
    names = {name.strip() for name in named} - {b""}
    return None if b"*" in names else tuple(sorted(names))


def _fields(bare: bytes, names: Container[bytes]) -> list[bytes]:
    """Return the fields of a request head that have one of `names`, in the order of their names."""
    fields = [field.partition(b":") for field in bare.split(b"\r\n")[1:]]
    chosen = [(name.lower(), value.strip()) for name, _, value in fields if name.lower() in names]
    return [b"%b:%b" % field for field in sorted(chosen, key=itemgetter(0))]


def _expired(expires_at: float | None) -> bool:
    """Whether a token has expired. `expires_at`: Unix seconds."""
    return expires_at is not None and time.time() >= expires_at
