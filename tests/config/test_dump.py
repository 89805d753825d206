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
      identity: {from: "header:x-token", verify: upstream}
      early_commit: {after: 2s}
      reconnect: {when: off}
      max_age: 1h
    cors: {origins: [https://a.com, "http://[::1]:3000"], credentials: true}
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
        "16MiB",
    )
    assert (stream["reconnect"]["when"], stream["reconnect"]["first_within"]) == ("off", "8s")
    assert (stream["max_age"], stream["early_commit"]["after"]) == ("1h", "2s")
    assert shown["routes"][1]["cors"] == "off"
    json.dumps(shown)


def test_the_place_of_a_token_is_shown_by_the_key_that_names_it() -> None:
    identity = effective(loaded(MANY).settings)["routes"][0]["stream"]["identity"]
    assert identity["from"] == "header:x-token"
    assert identity["audience"] == "off"
    assert "source" not in identity


def test_a_route_without_a_stream_is_shown_without_one() -> None:
    assert "stream" not in effective(loaded(MANY).settings)["routes"][1]


def test_what_is_printed_is_a_configuration_that_means_the_same() -> None:
    settings = loaded(MANY).settings
    again = loaded(to_yaml(settings)).settings
    assert effective(again) == effective(settings)
    assert again == settings
