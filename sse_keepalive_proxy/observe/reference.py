"""The reference of the metrics, out of the metrics.

    python -m sse_keepalive_proxy.observe.reference

writes `docs/reference/metrics.md`; a test fails when the committed file differs.
"""

from __future__ import annotations

from pathlib import Path

from sse_keepalive_proxy.observe.metrics import NO_ROUTE, Metrics
from sse_keepalive_proxy.observe.registry import Registry

__all__ = ["markdown"]

_FILE = Path(__file__).parent.parent.parent / "docs" / "reference" / "metrics.md"

_INTRODUCTION = f"""\
# Metrics

<!-- Written by `python -m sse_keepalive_proxy.observe.reference` from the code. Do not edit. -->

`/metrics` on the admin listener, for Prometheus. Labels come from the configuration and from closed sets,
never from a request: no path, no user, no token. Those sets are there from the start, at 0, but for
`requests_total`, whose `code` is the status as three digits (499: the client left before the answer) and
whose `method` is one of the known ones or `other`. A request that no route takes has `route="{NO_ROUTE}"`;
one refused before routing also has `method="other"`.

`streams_*`, `confirms_*`, `pings_*` and `downstream_*` count clients; `upstream_*` count connections to
upstream. Times are seconds. The usual `process_*` metrics are there too.

What each `state` of `streams_active` means is in [lifecycle](../design/lifecycle.md), what each `reason` of
`streams_closed_total` means in [behaviour](behaviour.md#ends).

| metric | type | labels | meaning |
|---|---|---|---|
"""


def markdown() -> str:
    """The page."""
    metrics = Metrics(Registry(1, None), lambda: 0.0)
    metrics.route("events")
    metrics.answered("events", "GET", 200)
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


def _label(name: str, values: list[str]) -> str:
    if name == "build":
        values = ["compiled", "interpreted", "partly compiled"]  # this process can show only its own
    open_ended = name in ("route", "method", "code", "version", "python_version")
    return f"`{name}`" if open_ended else f"`{name}`: {' '.join(f'`{value}`' for value in values)}"


if __name__ == "__main__":
    _FILE.write_text(markdown(), encoding="utf-8")
