"""The status page: a table of the open streams, escaped and without scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

from sse_keepalive_proxy.build import BUILD

__all__ = ["render"]

_COLUMNS = (
    ("state", "state"),
    ("route", "route"),
    ("id", "stream"),
    ("client", "client"),
    ("family", "family"),
    ("age_s", "age"),
    ("since_upstream_byte_s", "last upstream byte"),
    ("since_upstream_event_s", "last upstream event"),
    ("events", "events"),
    ("pings", "pings"),
    ("stalls", "stalls"),
    ("reconnects", "reconnects"),
    ("bytes", "bytes"),
)
_BRIDGED = ("bridge", "bridge")
_MOST = 500
"""The largest number of rows. `/streams` has all streams."""

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#59636e}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
h1{font-size:1.3rem;margin:0}h2{font-size:1.1rem}p{margin:.3rem 0 1.2rem;color:var(--soft)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft)}td:nth-child(n+6),th:nth-child(n+6){text-align:right}
.chip{display:inline-block;padding:0 .6rem;border-radius:1rem;border:1px solid var(--line);margin-right:.4rem}
.flowing,.connected{color:#1a7f37}.idle{color:#57606a}.stalled,.away{color:#cf222e;font-weight:600}.waiting{color:#9a6700}
div{overflow-x:auto}a{color:inherit}
@media(prefers-color-scheme:dark){:root{--soft:#9aa4b0}
.flowing,.connected{color:#3fb950}.idle{color:#9aa4b0}.stalled,.away{color:#ff7b72}.waiting{color:#d29922}}
"""


_GROUP_COLUMNS = (
    ("state", "state"),
    ("route", "route"),
    ("id", "group"),
    ("clients", "clients"),
    ("age_s", "age"),
    ("since_upstream_byte_s", "last upstream byte"),
    ("since_upstream_event_s", "last upstream event"),
    ("events", "events"),
    ("stalls", "stalls"),
    ("reconnects", "reconnects"),
    ("log_bytes", "bytes in the log"),
)
_BRIDGE_COLUMNS = (
    ("state", "state"),
    ("route", "route"),
    ("mode", "mode"),
    ("server", "server"),
    ("since_s", "since"),
    ("streams", "streams"),
    ("filled", "filled"),
    ("delivered", "delivered by upstream"),
    ("dropped", "copies dropped"),
    ("missed", "missed"),
    ("invalid", "invalid"),
)


def render(
    streams: Sequence[dict[str, Any]],
    groups: Sequence[dict[str, Any]],
    bridges: Sequence[dict[str, Any]],
    phase: str,
    limit: int,
) -> str:
    """Return the page as HTML. It reloads itself every two seconds."""
    clients = sum(row["state"] != "held" for row in streams)
    stalled_first = sorted(streams, key=lambda row: row["state"] != "stalled")  # a stable sort
    states = Counter(str(row["state"]) for row in streams)
    chips = "".join(
        f'<span class="chip {escape(state)}">{count} {escape(state)}</span>'
        for state, count in sorted(states.items())
    )
    more = (_BRIDGED,) if bridges else ()
    shared = f"<h2>Shared streams of upstream</h2>{_table(groups, _GROUP_COLUMNS + more)}" if groups else ""
    nats = f"<h2>Messages of NATS</h2>{_table(bridges, _BRIDGE_COLUMNS)}" if bridges else ""
    empty = "" if streams else "<p>No stream is open.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="refresh" content="2"><meta name="viewport" content="width=device-width">'
        f"<title>streams · {clients}</title><style>{_STYLE}</style></head><body>"
        f"<h1>sse-keepalive-proxy</h1><p>{escape(phase)} · {BUILD} · {clients} of {limit} streams</p>"
        f"<p>{chips}</p>{_table(stalled_first, _COLUMNS + more)}{empty}{shared}{nats}"
        f'<p><a href="/streams">streams</a> · <a href="/config">configuration</a> · '
        '<a href="/metrics">metrics</a></p>'
        "</body></html>"
    )


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[tuple[str, str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for _, title in columns)
    body = "".join(_row(row, columns) for row in rows[:_MOST])
    more = f"<p>{len(rows) - _MOST} more: see /streams</p>" if len(rows) > _MOST else ""
    return f"<div><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}"


def _row(row: dict[str, Any], columns: Sequence[tuple[str, str]]) -> str:
    cells = "".join(
        f'<td class="{escape(str(row[key]))}">{_cell(key, row[key])}</td>'
        if key == "state"
        else f"<td>{_cell(key, row[key])}</td>"
        for key, _ in columns
    )
    return f"<tr>{cells}</tr>"


def _cell(key: str, value: object) -> str:
    if value is None:
        return "" if key == "bridge" else "never"
    if isinstance(value, dict):
        return escape("{mode}: {waiting} waiting, {filled} filled".format_map(value))
    if key.endswith("_s") and isinstance(value, (int, float)):
        return f"{value:.1f}&nbsp;s{'&nbsp;ago' if key.startswith('since_') else ''}"
    return escape(str(value))
