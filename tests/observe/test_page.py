"""The status page: for eyes, complete in itself, and harmless whatever is in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from sse_keepalive_proxy.build import BUILD
from sse_keepalive_proxy.observe.page import render
from sse_keepalive_proxy.observe.registry import snapshot
from tests.observe.test_registry import Stream

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&"
VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its table, its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def row(**changes: Any) -> dict[str, Any]:
    return {**snapshot(Stream(), 1003.0), **changes}


def test_an_idle_proxy_says_that_no_stream_is_open() -> None:
    page = Page(render([], [], [], "ready", 10000))
    assert f"ready · {BUILD} · 0 of 10000 streams" in page.text
    assert "No stream is open." in page.text
    assert len(page.rows) == 1


def test_a_stream_that_is_held_without_a_client_has_a_row_and_counts_as_no_stream() -> None:
    page = Page(render([row(), row(state="held", held_s=1.0)], [], [], "ready", 10))
    assert "1 of 10 streams" in page.text
    assert "1 held" in page.text
    assert [cells[0] for cells in page.rows[1:]].count("held") == 1


def test_each_stream_is_a_row_with_its_state_its_times_and_its_counts() -> None:
    page = Page(
        render(
            [row(state="idle", since_upstream_byte_s=12.34, pings=3, events=7, reconnects=2, bytes=99)],
            [],
            [],
            "ready",
            10,
        )
    )
    head, line = page.rows
    assert dict(zip(head, line, strict=True)) == {
        "state": "idle",
        "route": "events",
        "stream": "0011223344556677",
        "client": "203.0.113.7",
        "family": "browser",
        "age": "3.0\u00a0s",
        "last upstream byte": "12.3\u00a0s\u00a0ago",
        "last upstream event": "never",
        "events": "7",
        "pings": "3",
        "stalls": "0",
        "reconnects": "2",
        "bytes": "99",
    }
    assert "1 of 10 streams" in page.text


def test_stalled_streams_come_first_and_states_are_counted() -> None:
    rows = [row(state="flowing", id="a"), row(state="stalled", id="b"), row(state="flowing", id="c")]
    page = Page(render(rows, [], [], "ready", 10))
    assert [cells[2] for cells in page.rows[1:]] == ["b", "a", "c"]
    assert "2 flowing" in page.text
    assert "1 stalled" in page.text


def test_a_page_of_thousands_is_cut_and_says_where_the_rest_is() -> None:
    page = Page(render([row(id=str(index)) for index in range(1234)], [], [], "draining", 5000))
    assert len(page.rows) == 501
    assert "734 more: see /streams" in page.text
    assert f"draining · {BUILD} · 1234 of 5000 streams" in page.text


@pytest.mark.parametrize("key", sorted(row()))
def test_a_hostile_value_is_text_wherever_it_stands(key: str) -> None:
    page = Page(render([row(**{key: EVIL})], [], [], EVIL, 10))
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "img"})
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count("<script>alert(1)</script>") >= 1  # shown, as what it is


def test_the_page_loads_nothing_and_runs_no_script() -> None:
    html = render([row(), row(state="stalled")], [], [], "ready", 10)
    page = Page(html)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "img", "iframe", "object", "form"})
    assert not any({"src", "action"} & set(attributes) for _, attributes in page.elements)
    links = [attributes["href"] for tag, attributes in page.elements if "href" in attributes]
    assert links == ["/streams", "/config", "/metrics"]  # of this listener
    assert not re.search(r"https?:|//|url\(|@import", html)


def test_a_shared_stream_of_upstream_is_a_row_of_its_own_table() -> None:
    group = {
        "id": "8899aabbccddeeff",
        "route": "events",
        "state": "flowing",
        "clients": 3,
        "age_s": 2.0,
        "since_upstream_byte_s": 1.0,
        "since_upstream_event_s": None,
        "events": 7,
        "stalls": 0,
        "reconnects": 1,
        "log_bytes": 512,
    }
    page = Page(render([row(group="8899aabbccddeeff")], [group], [], "ready", 10))
    assert "1 of 10 streams" in page.text
    assert page.rows[-1][:4] == ["flowing", "events", "8899aabbccddeeff", "3"]
    assert page.rows[-1][-1] == "512"


def test_the_bridge_of_each_route_is_a_row_and_each_stream_says_what_it_has_there() -> None:
    bridge = {
        "route": "events",
        "mode": "fill",
        "state": "away",
        "server": EVIL,
        "since_s": 12.34,
        "streams": 2,
        **dict.fromkeys(("filled", "delivered", "dropped", "missed", "invalid"), 7),
    }
    at_bridge = {"mode": EVIL, "waiting": 2, "filled": 9}
    page = Page(render([row(bridge=at_bridge), row()], [], [bridge], "ready", 10))
    assert page.rows[0][-1] == "bridge"
    assert [line[-1] for line in page.rows[1:3]] == [f"{EVIL}: 2 waiting, 9 filled", ""]
    assert page.rows[-1][:6] == ["away", "events", "fill", EVIL, "12.3\u00a0s\u00a0ago", "2"]
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "img"})
