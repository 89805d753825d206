"""`config.example.yaml` is valid, shows every key, and says nothing untrue.

The convention: above each key stand its sentence and default as the model has them, then, where
this file chooses something, lines that begin with "Here:". A section that is off shows its keys in
comments below it; here they are read as if they were no comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.generate.configuration import Key, keys
from sse_keepalive_proxy.config import load
from sse_keepalive_proxy.config.sections.settings import Settings
from sse_keepalive_proxy.config.types.fields import Section
from sse_keepalive_proxy.stream.policy import (
    Identity,
    ReconnectWhen,
    Replay,
    ReplayIds,
    Share,
    SignOfLife,
    StallAction,
    Verify,
)
from tests.config.writing import loaded
from tests.support.authority import Authority

CLIENT_GIVES_UP = 10.0  # seconds without headers (facts.md#notify-server-page)

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
TEXT = EXAMPLE.read_text(encoding="utf-8")
_OFF = re.compile(r"^( *)(\w+): off\n\1# (\2:\n(?:\1#   .*\n)+)", re.MULTILINE)


def _opened(text: str) -> str:
    """`text` with every section that is off, and shows its keys, turned on."""
    opened = _OFF.sub(lambda found: found[1] + found[3].replace(f"\n{found[1]}# ", f"\n{found[1]}"), text)
    return opened if opened == text else _opened(opened)


LINES = _opened(TEXT).splitlines()


@dataclass(frozen=True)
class Shown:
    """A key of the model and where the example shows it."""

    path: str
    key: Key
    line: int
    value: yaml.Node


def _shown(section: type[Section], node: Any, path: str) -> Iterator[Shown]:
    written = {key.value: (key, value) for key, value in node.value}
    for key in keys(section):
        assert key.name in written, f"the example does not show {path}{key.name}"
        name, value = written[key.name]
        yield Shown(f"{path}{key.name}", key, name.start_mark.line, value)
        if key.section is not None and key.name != "defaults":
            yield from _shown(key.section, _inside(key.name, value), f"{path}{key.name}.")


def _inside(name: str, value: Any) -> Any:
    """The first upstream, the first route, or the section itself."""
    if name == "upstreams":
        return value.value[0][1]
    return value.value[0] if name in ("routes", "subjects", "frames") else value


SHOWN = list(_shown(Settings, yaml.compose("\n".join(LINES)), ""))


def _comment(shown: Shown) -> str:
    """The comment right above a key, as one line, without its "Here:" part."""
    above: list[str] = []
    for line in reversed(LINES[: shown.line]):
        if not line.strip().startswith("# "):
            break
        above.insert(0, line.strip().removeprefix("# "))
    return " ".join(above).split(" Here: ", maxsplit=1)[0]


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.path)
def test_the_comment_of_a_key_is_what_the_model_says(shown: Shown) -> None:
    default = {
        "(required)": " Required.",
        "(every default)": "",
        "(left out)": " Default: left out.",
    }.get(shown.key.default, f" Default: {shown.key.default}")
    first_sentence = re.split(r"(?<=\.)\s", shown.key.description, maxsplit=1)[0]
    assert _comment(shown) == first_sentence + default


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.path)
def test_a_value_that_is_not_the_default_is_given_a_reason(shown: Shown) -> None:
    if shown.key.default.startswith("(") or shown.key.section is not None:
        return
    default = yaml.load(shown.key.default, yaml.BaseLoader)
    written = yaml.load(yaml.serialize(shown.value), yaml.BaseLoader)
    reasons = [line for line in LINES[max(0, shown.line - 2) : shown.line] if "# Here: " in line]
    assert reasons or written == default


def test_the_example_is_valid_and_gives_no_warning() -> None:
    assert load(EXAMPLE, environ={}).warnings == ()


def test_what_the_example_shows_in_comments_is_valid_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.certificate("server", "localhost")
    text = _opened(TEXT)
    for name, path in (("tls.crt", server), ("tls.key", server), ("cloudflare.pem", authority.file)):
        text = text.replace(f"/etc/sse-keepalive-proxy/{name}", str(path))
    configured = loaded(text)
    assert configured.warnings == ()
    assert set(configured.settings.files) == {server, authority.file}
    events, _ = configured.settings.routes
    assert events.cors is not None
    assert events.stream is not None


def test_the_example_heals_notify_server_for_its_browser_client() -> None:
    settings = load(EXAMPLE, environ={}).settings
    events, rest = settings.routes
    assert events.match.takes_path("/events")
    assert events.match.takes(method="GET", host="any")
    assert events.match.takes(method="HEAD", host="any")
    assert events.stream is not None
    policy = events.stream.policy
    assert policy.refuse_head
    assert policy.confirm is not None
    assert policy.confirm.event == ""
    assert policy.keepalive is not None
    assert policy.keepalive.interval == 15.0
    assert policy.stall is not None
    assert policy.stall.ignore_types == {"heartbeat", "connection_confirmed"}
    assert policy.stall.sign_of_life is SignOfLife.BRIDGE
    assert policy.stall.action is StallAction.RECONNECT
    assert policy.stall.close_after is None
    assert policy.early_commit is not None
    assert policy.reconnect is not None
    assert policy.reconnect.when is ReconnectWhen.ALWAYS
    assert (policy.max_age, events.cors) == (None, None)
    assert policy.identity == Identity(verify=Verify.UPSTREAM)
    assert policy.share == Share("user.id", linger=60.0, replay=Replay(ids=ReplayIds.ADD))
    assert policy.unname == {"Generic"}
    assert (rest.match.path, rest.stream) == ("/*", None)


def test_the_example_answers_before_its_client_gives_up() -> None:
    events = load(EXAMPLE, environ={}).settings.routes[0]
    assert events.stream is not None
    policy = events.stream.policy
    assert policy.early_commit is not None
    assert policy.reconnect is not None
    assert policy.reconnect.first_within is not None
    assert max(policy.early_commit.after, policy.reconnect.first_within) < CLIENT_GIVES_UP


def test_the_lines_of_the_example_can_be_read() -> None:
    lines = TEXT.splitlines()
    assert max(map(len, lines)) <= 102
    assert not any(re.search(r"\s$", line) for line in lines)
