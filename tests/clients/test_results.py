"""What counts as worse than directly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.clients.matrix import Language, Row
from tests.clients.play import Played, Seen
from tests.clients.protocols import Protocol
from tests.clients.results import result_of
from tests.clients.upstream import BORNE, ERRORS, QUIET, Scene

ROW = Row(Language.PYTHON, "player", ("library==1.0",), Protocol.CHAT)
WHOLE = Seen(["one", "two"], ended=True)
RAISED = Seen(["one"], error={"kind": "library.Error", "text": "upstream says 401", "own": True})
FOREIGN = Seen(["one"], error={"kind": "socket.Error", "text": "cut", "own": False})


def played(changed: Mapping[str, Seen], row: Row = ROW) -> Played:
    """A row that is well, except for the scenes that are given."""
    well = dict.fromkeys((*QUIET, *BORNE), WHOLE) | dict.fromkeys(ERRORS, RAISED)
    proxied = well | {Scene(name): seen for name, seen in changed.items()}
    return Played(row, well, proxied, {}, ["openai"], 3)


def test_a_row_that_sees_the_same_and_raises_is_well() -> None:
    assert result_of(played({})).differs == []


@pytest.mark.parametrize(
    ("scene", "seen", "said"),
    [
        ("first", Seen(["spurious", "one", "two"], ended=True), "first: 1 events more"),
        ("middle", Seen(["one"], ended=True), "middle: 1 events lost"),
        ("half", Seen(["one", "two"]), "half: hangs, and not ends as if it were whole"),
        (
            "tail",
            replace(FOREIGN, events=["one", "two"]),
            "tail: socket.Error, and not ends as if it were whole",
        ),
        ("comments", replace(WHOLE, warnings=["unknown event"]), "a warning: unknown event"),
        ("refused", WHOLE, "refused: ends as if it were whole, and not library.Error, with the reason"),
        (
            "cut",
            Seen(["one"], ended=True),
            "cut: ends as if it were whole, and not library.Error, with the reason",
        ),
        ("aged", Seen(["one"], ended=True), "aged: ends as if it were whole"),
        ("late-401", FOREIGN, "late-401: socket.Error"),
        ("late-500", Seen(), "late-500: hangs"),
    ],
)
def test_what_is_worse_is_said(scene: str, seen: Seen, said: str) -> None:
    assert said in result_of(played({scene: seen})).differs


def test_an_event_that_comes_twice_is_one_more() -> None:
    twice = Seen(["one", "one", "two"], ended=True)
    assert result_of(played({"first": twice})).differs == ["first: 1 events more"]


def test_a_cut_may_be_of_another_class_than_directly() -> None:
    assert result_of(played({"cut": FOREIGN, "aged": FOREIGN})).differs == []


def test_who_connects_again_may_see_the_whole_stream_after_a_cut() -> None:
    row = replace(ROW, reconnects=True)
    well = played({"cut": WHOLE, "aged": WHOLE}, row)
    well.direct = {**well.direct, Scene.CUT: WHOLE}
    assert result_of(well).differs == []
    well.proxied = {**well.proxied, Scene.CUT: RAISED}
    assert "cut: 1 events lost" in result_of(well).differs


def test_a_stream_that_the_proxy_has_healed_is_not_worse_than_a_cut() -> None:
    assert result_of(played({"cut": WHOLE})).differs == []


def test_what_a_client_bears_is_compared_with_its_whole_stream() -> None:
    row = played({})
    row.direct = {
        **row.direct,
        Scene.BLANK: Seen(["", "one", "", "two"], ended=True),
        Scene.NEWLINE: Seen(["two"], ended=True),
        Scene.NAMED: WHOLE,
        Scene.TOLD: RAISED,
        Scene.CUT: FOREIGN,
    }
    assert result_of(row).bears == {
        "blank": "an event for each",
        "newline": "1 of 2 events lost",
        "named": "nothing",
        "told": "library.Error, with the reason",
        "cut": "socket.Error",
    }
