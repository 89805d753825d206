"""The effective configuration, as it is shown and as it is read back."""

from __future__ import annotations

import json

from sse_keepalive_proxy.config import effective, to_yaml
from tests.config.writing import VALID, loaded

MANY = (
    VALID
    + """\
      confirm: {data: {b: "off", c: [1, null, true]}, event: "$${HOME}"}
      keepalive: {interval: 1500ms}
      stall: off
  - {name: rest, match: {path: /*, host: [a.com, "*.b.com"]}, upstream: notify}
"""
)


def test_what_is_shown_has_units_and_off_again() -> None:
    shown = effective(loaded(MANY).settings)
    assert shown["limits"]["max_request_header"] == "32KiB"
    assert shown["limits"]["max_streams_per_client"] == "off"
    stream = shown["routes"][0]["stream"]
    assert (stream["keepalive"]["interval"], stream["stall"], stream["max_event"]) == (
        "1500ms",
        "off",
        "1MiB",
    )
    json.dumps(shown)


def test_a_route_without_a_stream_is_shown_without_one() -> None:
    assert "stream" not in effective(loaded(MANY).settings)["routes"][1]


def test_what_is_printed_is_a_configuration_that_means_the_same() -> None:
    settings = loaded(MANY).settings
    again = loaded(to_yaml(settings)).settings
    assert effective(again) == effective(settings)
    assert again == settings
