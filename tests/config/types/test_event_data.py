"""Where claims stand in the data of an event."""

from __future__ import annotations

from typing import Any

import pytest

from sse_keepalive_proxy.config.types.event_data import claims_in


@pytest.mark.parametrize(
    ("data", "ways"),
    [
        ({"a": "{claim.sub}"}, [("a",)]),
        ({"a": ["x", {"b": "user {claim.user.id}, {claim.user.fullname}"}]}, [("a", 1, "b")]),
        ({"a": "{claim.a-b._c0}", "b": "{claim.x}"}, [("a",), ("b",)]),
        ({"a": "{now} claim.user.id {route}", "b": 1, "c": None, "d": True}, []),
        ({"{claim.sub}": "a key is filled in as well"}, [("{claim.sub}",)]),
        ({"a": "{claim}", "b": "{claim.}", "c": "{claim.a b}", "d": "{{claim.a}}"}, []),
    ],
)
def test_claims_are_found_with_the_way_to_their_string(
    data: dict[str, Any], ways: list[tuple[str | int, ...]]
) -> None:
    assert list(claims_in(data)) == ways
