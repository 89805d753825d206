"""The page of clients is written from the results of the last whole run, and every row has a result."""

from __future__ import annotations

import pytest

from sse_keepalive_proxy.stream.families import TREATMENTS
from sse_keepalive_proxy.stream.policy import Family
from tests.clients import page
from tests.clients.matrix import KNOWN, ROWS
from tests.clients.results import Result, load

RESULTS = load()


def test_the_page_is_what_the_results_say() -> None:
    assert page.FILE.read_text(encoding="utf-8") == page.markdown(RESULTS), "run `make docs`"


def test_the_page_says_when_each_family_is_asked_again_and_answered_early() -> None:
    rows = [
        line.strip("| ").split(" | ") for line in page.markdown([]).splitlines() if line.startswith("| `")
    ]
    told = {row[0].strip("`"): (row[5], row[6]) for row in rows}
    again = {Family.MCP: "after a fault", Family.BROWSER: "after a fault and a clean end"}
    early = dict.fromkeys((Family.GEMINI, Family.GEMINI_PYTHON), "only with `Accept: text/event-stream`")
    early[Family.MCP] = "no"
    assert told == {each: (early.get(each, "yes"), again.get(each, "no")) for each in TREATMENTS}


def test_every_row_of_the_matrix_has_a_result() -> None:
    assert [result.title for result in RESULTS] == [row.title for row in ROWS]
    assert len({row.title for row in ROWS}) == len(ROWS) >= 30


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.title)
def test_every_difference_has_a_reason(result: Result) -> None:
    assert [each for each in result.differs if not page.reason(result, each)] == []


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.title)
def test_a_silence_had_pings_where_the_family_gets_any(result: Result) -> None:
    assert result.families
    assert result.pinged == any(TREATMENTS[Family(family)].pings for family in result.families)


def test_every_reason_is_needed() -> None:
    lines = [f"{result.title}: {each}" for result in RESULTS for each in result.differs]
    assert [begin for begin in KNOWN if not any(line.startswith(begin) for line in lines)] == []


def test_two_rows_or_more_of_each_family_are_part_of_the_normal_test_run() -> None:
    chosen = {row.title for row in ROWS if row.ci}
    families = [family for result in RESULTS if result.title in chosen for family in result.families]
    wanting = set(Family) - {Family.AUTO} - {each for each in families if families.count(each) > 1}
    assert not wanting
