"""The verdict: what makes it, and a story in which nothing is healed."""

from dataclasses import replace

import pytest

from sse_keepalive_proxy.demo.observer import Observer
from sse_keepalive_proxy.demo.stage import CHAT, staged
from sse_keepalive_proxy.demo.story import Told, shortcomings, tell
from sse_keepalive_proxy.upstream.dial import Dialer
from tests.demo.seeing import HEALED, SILENT
from tests.support.looping import in_loop

GOOD = Told(SILENT, HEALED, replace(HEALED, message_after=9.0), stalled=True, interval=2.0)


def test_a_healed_stream_has_no_shortcoming() -> None:
    assert shortcomings(GOOD) == []


@pytest.mark.parametrize(
    ("told", "word"),
    [
        (replace(GOOD, direct=replace(SILENT, bytes=8)), "nothing to heal"),
        (replace(GOOD, proxied=replace(HEALED, first_byte_after=None)), "no byte came at once"),
        (replace(GOOD, proxied=replace(HEALED, first_byte_after=2.0)), "no byte came at once"),
        (replace(GOOD, proxied=replace(HEALED, confirm_after=None)), "no confirm"),
        (replace(GOOD, proxied=replace(HEALED, pings=0)), "no ping"),
        (replace(GOOD, proxied=replace(HEALED, longest_silence=2.6)), "silent for 2.6 s"),
        (replace(GOOD, after=HEALED), "did not reach onmessage"),
        (replace(GOOD, stalled=False), "the metrics did not show"),
    ],
)
def test_each_shortcoming_is_named_alone(told: Told, word: str) -> None:
    (line,) = shortcomings(told)
    assert word in line


@in_loop
async def test_a_stream_that_does_not_go_through_the_proxy_is_not_healed() -> None:
    said: list[str] = []
    async with staged(0) as stage:
        stage.proxied.close()
        stage.proxied = Observer(Dialer(), lambda: None)
        await stage.proxied.open(stage.direct_url, stage.notify.token(stage.notify.hub.join(CHAT)))
        assert not await tell(stage, said.append, watch=0.3)
        stage.proxied.close()
    verdict = said[said.index("not healed:") + 1 :]
    assert [line for line in verdict if "no confirm" in line]
    assert [line for line in verdict if "did not reach onmessage" in line]
    assert not any(line.startswith("healed") for line in said)
