"""The reference of the metrics, from the metrics."""

from __future__ import annotations

from typing import Any

from sse_keepalive_proxy.http.unanswered import Unanswered
from sse_keepalive_proxy.observe.metrics import NO_ROUTE, Metrics
from sse_keepalive_proxy.observe.registry import Registry

__all__ = ["markdown"]

_INTRODUCTION = f"""\
# Metrics

<!-- Written by `make docs` from the code. Do not edit. -->

The admin listener serves these metrics at `/metrics` for Prometheus. Labels come from the configuration and
from closed sets. They never come from a request: no path, no user, no token. Every label value exists from
the start with the value 0.

`requests_total` is the exception. Its `code` is the status as three digits; 499 means that the client left
before the answer. A status that is not registered counts as the x00 of its class, and one outside of 100 to
599 as 500. Its `method` is a known method or `other`. A request without a matching route has
`route="{NO_ROUTE}"`. A request that is refused before routing also has `method="other"`.

`streams_*`, `confirms_*`, `pings_*` and `downstream_*` count clients. `upstream_*` count connections to
upstream. Times are in seconds. The usual `process_*` metrics are also available.

The page [lifecycle](../design/lifecycle.md) explains each `state` of `streams_active`. The page
[behaviour](behaviour.md#ends) explains each `reason` of `streams_closed_total`.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def markdown() -> str:
    """Return the page."""
    metrics = Metrics(Registry(1, None), lambda: 0.0)
    metrics.route("events").bridge = _Connected()
    metrics.answered("events", "GET", 200)
    metrics.set_openings({"notify": _Waiting()})
    rows = []
    for family in metrics.registry.collect():
        if not family.name.startswith("sse_proxy_"):
            continue
        values: dict[str, dict[str, None]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                values.setdefault(label, {})[value] = None
        labels = ", ".join(_label(label, list(found)) for label, found in values.items() if label != "le")
        suffix = "_total" if family.type == "counter" else "_info" if family.type == "info" else ""
        rows.append(f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation} |")
    return _INTRODUCTION + "\n".join(sorted(rows)) + "\n"


class _Connected:
    connected = True
    lost = 0

    def snapshot(self, now: float) -> dict[str, Any]:
        return {"at": now}


class _Waiting:
    waiting = 0
    unanswered = Unanswered(lambda: 0.0)


def _label(name: str, values: list[str]) -> str:
    if name == "build":
        values = ["compiled", "interpreted", "partly compiled"]  # this process can show only its own
    open_ended = name in ("route", "upstream", "method", "code", "version", "python_version")
    return f"`{name}`" if open_ended else f"`{name}`: {' '.join(f'`{value}`' for value in values)}"
