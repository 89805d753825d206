"""Check the keys of one route against each other.

Like `check`, it reads the untyped, merged tree and uses only values that are valid by themselves. Each check
takes a route and yields faults with the path from the route to the key to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sse_keepalive_proxy.config.reading.tree import Entry, Way, entry_at, plain, text_at
from sse_keepalive_proxy.config.sections.bridge import BridgeTls
from sse_keepalive_proxy.config.sections.client import Algorithms, Cors, Identity
from sse_keepalive_proxy.config.sections.opening import EarlyCommit, Reconnect
from sse_keepalive_proxy.config.sections.settings import Match
from sse_keepalive_proxy.config.sections.sharing import Share
from sse_keepalive_proxy.config.sections.stream import Credential, Decode, Head, Stream
from sse_keepalive_proxy.config.types.bridging import credentials_fault, nats_fault
from sse_keepalive_proxy.config.types.certificates import client_faults
from sse_keepalive_proxy.config.types.event_data import claims_in
from sse_keepalive_proxy.config.types.fields import NULL_IS_DEFAULTS, OFF, Fault
from sse_keepalive_proxy.config.types.key_file import extra_fault, key_fault
from sse_keepalive_proxy.config.types.shapes import CREDENTIAL, FilePath
from sse_keepalive_proxy.config.types.units import Duration, format_duration
from sse_keepalive_proxy.stream.policy import OnRefusal, ReplayIds, SignOfLife, StallAction, Verify
from sse_keepalive_proxy.wire.codings import missing

__all__ = ["Finding", "disagreements", "valid", "warnings"]

Finding = tuple[Way, Fault]
_Value = TypeVar("_Value")
_MATCH = TypeAdapter(Match)
_CORS = TypeAdapter(Cors)
_RECONNECT = TypeAdapter(Annotated[Reconnect, NULL_IS_DEFAULTS])
_EARLY_COMMIT = TypeAdapter(EarlyCommit)
_SHARE: TypeAdapter[Share | None] = TypeAdapter(Annotated[Share | None, OFF, NULL_IS_DEFAULTS])
_CREDENTIAL: TypeAdapter[tuple[str, ...]] = TypeAdapter(Credential)
_DURATION: TypeAdapter[float] = TypeAdapter(Duration)
_FILE: TypeAdapter[str] = TypeAdapter(FilePath)
_BRIDGE_TLS: TypeAdapter[BridgeTls | None] = TypeAdapter(Annotated[BridgeTls | None, OFF, NULL_IS_DEFAULTS])
_ALGORITHMS: TypeAdapter[tuple[str, ...]] = TypeAdapter(Algorithms)
_CLIENT_GIVES_UP = 10.0
"""Seconds after which a browser page may stop waiting for a response head (facts.md#notify-server-page)."""

_ACTING = frozenset(StallAction) - {StallAction.OBSERVE}


def disagreements(route: Entry) -> Iterator[Finding]:
    """Yield every conflict between keys of `route`."""
    yield from _action_on_a_guess(route)
    yield from _sign_without_bridge(route)
    yield from _action_without_reconnect(route)
    yield from _delay_beyond_its_maximum(route)
    yield from _identity_without_proof(route)
    yield from _claims_without_identity(route)
    yield from _groups_without_identity(route)
    yield from _kept_without_proof(route)
    yield from _credentials_for_everybody(route)
    yield from _unusable_bridge(route)
    yield from _nothing_to_publish_with(route)


def warnings(route: Entry) -> Iterator[Finding]:
    """Yield settings of `route` that are valid but probably a mistake."""
    yield from _refusal_never_made(route)
    yield from _key_never_used(route)
    yield from _groups_without_credential(route)
    yield from _groups_never_made(route)
    yield from _not_filled_after_a_restart(route)
    yield from _headers_lost_by_early_commit(route)
    yield from _early_commit_never_made(route)
    yield from _given_up_unasked(route)
    yield from _later_than_a_client_waits(route)
    yield from _codings_without_a_library(route)


def valid(kind: TypeAdapter[_Value], entry: Entry | None) -> _Value | None:
    """Return the typed value of `entry`, or None if it is missing or invalid by itself."""
    if entry is None or entry.broken:
        return None
    try:
        return kind.validate_python(plain(entry))
    except ValidationError:
        return None


def _action_on_a_guess(route: Entry) -> Iterator[Finding]:
    way = ("stream", "stall", "sign_of_life")
    if text_at(route, "stream", "stall", "action") in _ACTING and entry_at(route, *way) is None:
        hint = "write bytes, comments, events or bridge"
        yield way, Fault("is required for every action except observe", hint)


def _sign_without_bridge(route: Entry) -> Iterator[Finding]:
    way, bridge = ("stream", "stall", "sign_of_life"), text_at(route, "stream", "bridge")
    if text_at(route, *way) == SignOfLife.BRIDGE and (
        bridge == "off" or entry_at(route, "stream", "bridge") is None
    ):
        hint = "write bridge: {servers: …}, or sign_of_life: events"
        yield way, Fault("needs `bridge`, which knows what upstream should have delivered", hint)


def _action_without_reconnect(route: Entry) -> Iterator[Finding]:
    way = ("stream", "stall", "action")
    off = "off" in (text_at(route, "stream", "reconnect"), text_at(route, "stream", "reconnect", "when"))
    if off and text_at(route, *way) == StallAction.RECONNECT:
        hint = "write reconnect: {when: resumable} or {when: always}, or action: observe"
        yield way, Fault("`reconnect` is off, so upstream cannot be opened again", hint)


def _delay_beyond_its_maximum(route: Entry) -> Iterator[Finding]:
    section = entry_at(route, "stream", "reconnect")
    reconnect = valid(_RECONNECT, section)
    if section is None or reconnect is None or reconnect.delay <= reconnect.max_delay:
        return
    if "delay" in section.keys:
        message = f"must not exceed the max_delay of {format_duration(reconnect.max_delay)}"
        yield ("stream", "reconnect", "delay"), Fault(message)
    else:
        message = f"is less than the delay's default of {format_duration(reconnect.delay)}"
        hint = f"write one, e.g. delay: {format_duration(reconnect.max_delay)}"
        yield ("stream", "reconnect", "max_delay"), Fault(message, hint)


def _identity(route: Entry) -> Mapping[str, Entry] | None:
    """Return the keys of the route's `identity`, or None if it has none or is not a mapping."""
    entry = entry_at(route, "stream", "identity")
    if entry is None or entry.broken or not (entry.value is None or isinstance(entry.value, Mapping)):
        return None
    return entry.keys


def _identity_without_proof(route: Entry) -> Iterator[Finding]:
    """Yield the faults of an `identity` that cannot check a signature. Reads the key file."""
    keys = _identity(route)
    if keys is None:
        return
    way = ("stream", "identity")
    missing = extra_fault()
    if missing is not None:
        yield way, missing
    if "verify" in keys and keys["verify"].text != Verify.JWT:
        return
    file = keys.get("public_key_file")
    if file is None or file.text == "off":
        hint = "name its PEM file; or write verify: upstream if upstream authenticates by this token"
        yield (*way, "public_key_file"), Fault("`verify: jwt` needs the public key of the tokens", hint)
        return
    path = valid(_FILE, file)
    if path is not None and missing is None:
        algorithms = valid(_ALGORITHMS, keys["algorithms"]) if "algorithms" in keys else _default_algorithms()
        fault = key_fault(path, algorithms or ())
        if fault is not None:
            yield (*way, "public_key_file"), fault


def _identity_is_off(route: Entry) -> bool:
    written = entry_at(route, "stream", "identity")
    return written is None or written.text == "off"


def _default_algorithms() -> tuple[str, ...]:
    default: tuple[str, ...] = Identity.model_fields["algorithms"].default
    return default


def _claims_without_identity(route: Entry) -> Iterator[Finding]:
    if not _identity_is_off(route):
        return
    for way in (("stream", "confirm", "data"), ("stream", "leave", "publish", "data")):
        data = entry_at(route, *way)
        for at in () if data is None else claims_in(plain(data)):
            hint = "write the place of the token: identity: {from: …}"
            yield (*way, *at), Fault("a claim needs `identity`, which is off on this route", hint)


def _share(route: Entry) -> Share | None:
    """Return the route's `share` if it is written and valid. Its `by` may be off."""
    return valid(_SHARE, entry_at(route, "stream", "share"))


def _groups_without_identity(route: Entry) -> Iterator[Finding]:
    share = _share(route)
    if share is None or share.by in (None, CREDENTIAL) or not _identity_is_off(route):
        return
    hint = "write the place of the token: identity: {from: …}; or share by credential"
    yield ("stream", "share", "by"), Fault("a claim needs `identity`, which is off on this route", hint)


def _unusable_bridge(route: Entry) -> Iterator[Finding]:
    """Yield the faults of a `bridge` that cannot connect, or cannot know whose streams are whose. Reads its
    files.
    """
    way = ("stream", "bridge")
    bridge = entry_at(route, *way)
    if bridge is None or bridge.broken or bridge.text == "off":
        return
    missing = nats_fault()
    if missing is not None:
        yield way, missing
    tls = valid(_BRIDGE_TLS, entry_at(route, *way, "tls"))
    if tls is not None:
        for key, fault in client_faults(tls.ca_file, tls.client_cert):
            yield (*way, "tls", key), fault
    file = valid(_FILE, entry_at(route, *way, "credentials_file"))
    if file is not None and file != "off" and (unusable := credentials_fault(file)) is not None:
        yield (*way, "credentials_file"), unusable
    subscriber, share = text_at(route, *way, "subscriber"), _share(route)
    if subscriber is None:
        return
    if _identity_is_off(route):
        hint = "write the place of the token: identity: {from: …}"
        yield (*way, "subscriber"), Fault("a claim needs `identity`, which is off on this route", hint)
    elif share is not None and share.by not in (None, CREDENTIAL, subscriber):
        message = f"must be the claim by which clients share a stream: {share.by}"
        yield (*way, "subscriber"), Fault(message, "its messages go to all clients of the group")


def _nothing_to_publish_with(route: Entry) -> Iterator[Finding]:
    way = ("stream", "leave", "publish")
    publish, bridge = entry_at(route, *way), entry_at(route, "stream", "bridge")
    if publish is None or publish.text == "off" or not (bridge is None or bridge.text == "off"):
        return
    hint = "write bridge: {servers: …}, or publish: off"
    yield way, Fault("needs `bridge`, whose connection to NATS is used", hint)


def _kept_without_proof(route: Entry) -> Iterator[Finding]:
    """Yield the fault of a client that would be kept after a refusal by nothing but upstream's acceptance."""
    way = ("stream", "reconnect", "on_refusal")
    if text_at(route, *way) != OnRefusal.KEEP:
        return
    message = "`keep` needs `identity` with `verify: jwt`, because it keeps a client that upstream refuses"
    if _identity_is_off(route):
        yield way, Fault(message, "write identity: {from: …, public_key_file: …}, or on_refusal: end")
    elif text_at(route, "stream", "identity", "verify") == Verify.UPSTREAM:
        yield way, Fault(message, "write verify: jwt with a public_key_file, or on_refusal: end")


def _credentials_for_everybody(route: Entry) -> Iterator[Finding]:
    cors = valid(_CORS, entry_at(route, "cors"))
    if cors is not None and cors.credentials and "*" in cors.origins:
        message = "cannot be true for the origin `*`: browsers refuse such an answer"
        yield ("cors", "credentials"), Fault(message, "name the origins, or write credentials: false")


def _refusal_never_made(route: Entry) -> Iterator[Finding]:
    """Yield a warning if `head: refuse` has no effect: a later route would handle the HEAD."""
    way = ("stream", "head")
    match = valid(_MATCH, route.keys.get("match"))
    if match is None or match.methods is None or "HEAD" in match.methods:
        return
    if text_at(route, *way) == Head.REFUSE:
        yield way, Fault("this route matches no HEAD request to refuse", "add HEAD to its methods")


def _key_never_used(route: Entry) -> Iterator[Finding]:
    way = ("stream", "identity", "public_key_file")
    key = text_at(route, *way)
    if text_at(route, "stream", "identity", "verify") == Verify.UPSTREAM and key not in (None, "off"):
        hint = "remove it, or write verify: jwt"
        yield way, Fault("`verify: upstream` checks no signature, so this key is not used", hint)


def _groups_without_credential(route: Entry) -> Iterator[Finding]:
    share = _share(route)
    if share is None or share.by != CREDENTIAL or not _identity_is_off(route):
        return
    if valid(_CREDENTIAL, entry_at(route, "stream", "credential")) == ():
        message = "never happens: `credential` names no place, and without a credential nothing is shared"
        yield ("stream", "share", "by"), Fault(message, "name the places in `credential`")


def _groups_never_made(route: Entry) -> Iterator[Finding]:
    """Yield a warning if `share` has keys but no `by`. A written `by: off` is a deliberate choice."""
    way = ("stream", "share")
    share, section = _share(route), entry_at(route, *way)
    if share is not None and section is not None and section.keys and "by" not in section.keys:
        yield way, Fault("nothing is shared without `by`", "write by: credential or by: claim:user.id")


def _not_filled_after_a_restart(route: Entry) -> Iterator[Finding]:
    """Yield a warning if a stream is read from a position that no client can name when it comes back."""
    way = ("stream", "bridge", "durable")
    durable, share = entry_at(route, *way), _share(route)
    if durable is None or durable.text == "off":
        return
    replay = None if share is None or share.by is None else share.replay
    if replay is None or replay.ids is not ReplayIds.ADD:
        message = "what is published while the proxy restarts is not filled: no client can say where it was"
        hint = "write share: {by: claim:…, linger: …, replay: {ids: add}}"
        yield way, Fault(message, hint)


def _codings_without_a_library(route: Entry) -> Iterator[Finding]:
    way = ("stream", "decode")
    if text_at(route, *way) == Decode.ON and (codings := missing()):
        message = f"{' and '.join(codings)} cannot be decoded, because the extra `decode` is not installed"
        yield way, Fault(message, "pip install 'sse-keepalive-proxy[decode]'")


def _early_commit_after(route: Entry) -> float | None:
    early = valid(_EARLY_COMMIT, entry_at(route, "stream", "early_commit"))
    return None if early is None else early.after


def _headers_lost_by_early_commit(route: Entry) -> Iterator[Finding]:
    """Yield a warning unless the file has `cors`. A written `cors: off` is a deliberate choice."""
    if _early_commit_after(route) is not None and "cors" not in route.keys:
        hint = "set the route's `cors`, or write `cors: off` if a hop adds them or there is no other origin"
        message = "an early commit cannot carry upstream's CORS headers"
        yield ("stream", "early_commit", "after"), Fault(message, hint)


def _early_commit_never_made(route: Entry) -> Iterator[Finding]:
    after = _early_commit_after(route)
    entry = entry_at(route, "stream", "open_timeout")
    timeout: Any = Stream.model_fields["open_timeout"].default if entry is None else valid(_DURATION, entry)
    if after is not None and timeout is not None and after >= timeout:
        message = f"never happens: the open_timeout of {format_duration(timeout)} ends the wait first"
        yield ("stream", "early_commit", "after"), Fault(message, "write less, or a longer open_timeout")


def _reconnect(route: Entry) -> Reconnect | None:
    """Return the route's `reconnect` if it is written and not off."""
    reconnect = valid(_RECONNECT, entry_at(route, "stream", "reconnect"))
    return None if reconnect is None or reconnect.when is None else reconnect


def _given_up_unasked(route: Entry) -> Iterator[Finding]:
    """Yield a warning if the longest wait exceeds `give_up_after`.

    Only a sign of life resets the waits, so the first wait after a loss may be the longest.
    """
    way = ("stream", "reconnect")
    reconnect = _reconnect(route)
    if reconnect is None or reconnect.give_up_after > reconnect.max_delay:
        return
    message = "upstream may be given up before the first attempt"
    if entry_at(route, *way, "give_up_after") is not None:
        message = f"{message}: max_delay is {format_duration(reconnect.max_delay)}"
        yield (*way, "give_up_after"), Fault(message, "write a longer one, or a shorter max_delay")
    else:
        message = f"{message}: give_up_after is {format_duration(reconnect.give_up_after)}"
        yield (*way, "max_delay"), Fault(message, "write a shorter one, or a longer give_up_after")


def _later_than_a_client_waits(route: Entry) -> Iterator[Finding]:
    reconnect = _reconnect(route)
    waits = {
        ("stream", "reconnect", "first_within"): None if reconnect is None else reconnect.first_within,
        ("stream", "early_commit", "after"): _early_commit_after(route),
    }
    for way, wait in waits.items():
        if wait is not None and wait > _CLIENT_GIVES_UP:
            yield way, Fault("a browser page may give up after 10 s", "write less, e.g. 8s")
