"""When the alerts of `deploy/prometheus/rules.yml` fire, by promtool's own test of rules."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from docs.generate.metrics import markdown
from tests.support.programs import require

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yml"


def streams(**by_state: int) -> dict[str, str]:
    """Open streams of one route, the same number all the time."""
    return {f'streams_active{{route="events",state="{state}"}}': f"{n}x40" for state, n in by_state.items()}


def stalled(count: int) -> dict[str, str]:
    return {'upstream_stalled_streams{route="events"}': f"{count}x40"}


def reconnects(result: str, each_minute: int) -> dict[str, str]:
    return {f'upstream_reconnects_total{{route="events",result="{result}"}}': f"0+{each_minute}x40"}


def closed(reason: str, values: str) -> dict[str, str]:
    return {f'streams_closed_total{{route="events",reason="{reason}"}}': values}


def held(**by_route: int) -> dict[str, str]:
    """Streams of upstream without a client, of one instance."""
    return {
        f'upstream_held_streams{{instance="a",route="{name}"}}': f"{n}x40" for name, n in by_route.items()
    }


@pytest.mark.parametrize(
    ("alert", "series", "fires"),
    [
        ("SSEUpstreamLost", streams(flowing=4, reconnecting=6), True),
        ("SSEUpstreamLost", streams(flowing=6, reconnecting=4), False),
        ("SSEUpstreamStalled", streams(stalled=10) | stalled(10), True),
        ("SSEUpstreamStalled", streams(flowing=10) | stalled(0), False),
        ("SSEUpstreamFrozen", {'upstream_oldest_opening_seconds{route="events"}': "20+60x40"}, True),
        ("SSEUpstreamFrozen", {'upstream_oldest_opening_seconds{route="events"}': "5x40"}, False),
        # 20 streams: each reopened once a minute is a busy chat, four times a minute is a storm.
        ("SSEReconnectStorm", streams(flowing=20) | reconnects("reopened", 80), True),
        ("SSEReconnectStorm", streams(flowing=20) | reconnects("reopened", 20), False),
        ("SSEReconnectStorm", streams(reconnecting=20) | reconnects("failed", 80), False),  # an outage
        ("SSEStreamsGivenUp", closed("give_up", "0x25 3x15"), True),
        ("SSEStreamsGivenUp", closed("upstream_status", "0x25 3x15"), True),
        ("SSEStreamsGivenUp", closed("unauthorized", "0x25 3x15"), False),  # tokens expire
        ("SSEStreamsGivenUp", closed("give_up", "3x40"), False),
        ("SSEHeldStreamsNearLimit", held(events=600, chat=350), True),
        ("SSEHeldStreamsNearLimit", held(events=600, chat=250), False),
        ("SSEConfigurationRefused", {"config_last_reload_successful": "0x40"}, True),
        ("SSEConfigurationRefused", {"config_last_reload_successful": "1x40"}, False),
    ],
)  # fmt: skip
def test_an_alert_fires_for_what_it_is_about(
    alert: str, series: dict[str, str], fires: bool, tmp_path: Path
) -> None:
    told = promtool(tmp_path, alert, series)
    if fires:
        assert "got:[\n" in told, told
        assert f'alertname="{alert}"' in told
    else:
        assert "SUCCESS" in told, told


def promtool(directory: Path, alert: str, series: dict[str, str]) -> str:
    """What it says half an hour on, when no alert is expected: SUCCESS, or which it got instead."""
    inputs = [{"series": f"sse_proxy_{name}", "values": values} for name, values in series.items()]
    expected = [{"eval_time": "30m", "alertname": alert, "exp_alerts": []}]
    told = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": inputs, "alert_rule_test": expected}],
    }
    file = directory / "test.yml"
    file.write_text(json.dumps(told))
    command = [require("promtool"), "test", "rules", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def test_every_metric_of_a_rule_is_one_that_the_proxy_has() -> None:
    known = set(re.findall(r"`(sse_proxy_\w+)`", markdown()))
    assert set(re.findall(r"\bsse_proxy_\w+", RULES.read_text())) <= known
