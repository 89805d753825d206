"""The table of two streams."""

import pytest

from sse_keepalive_proxy.demo import table
from sse_keepalive_proxy.demo.observer import Life
from tests.demo.seeing import HEALED, SILENT


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ms"), (0.0041, "4 ms"), (0.25, "250 ms"), (1.0, "1.0 s"), (75.04, "75.0 s")],
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert table.duration(seconds) == text


def test_the_two_streams_stand_side_by_side() -> None:
    assert table.lines(SILENT, HEALED) == [
        "                   direct                     through the proxy",
        "  state            open, silent               alive",
        "  headers          after 2 ms                 after 3 ms",
        "  first byte       none in 9.0 s              after 4 ms",
        "  confirm          never                      after 4 ms",
        "  pings            0                          4",
        "  events           0, onmessage received 0    1, onmessage received 1",
        "  gaps announced   0                          1, the last of 120 ms",
        "  bytes            0                          137",
        "  silent for       9.0 s                      900 ms",
        "  longest silence  9.0 s                      2.0 s",
    ]
    assert Life.SILENT is SILENT.life
