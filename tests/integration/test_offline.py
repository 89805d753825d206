"""A page without network for 20 s, before servers that know no ids. The proxy has `config.example.yaml`.

The test runs itself as a program in a network namespace of its own, where it can cut the network: packets
of the proxy's port are dropped, and the page's connections are destroyed, as a phone does when its network
goes. Sometimes the reset still reaches the proxy, then its group has no client while the page is away.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_tabs_of_a_user import PAGES, Page
from tests.support.browser import browsing
from tests.support.looping import run
from tests.support.programs import require
from tests.support.proxy_process import ProxyProcess
from tests.support.running import soon
from tests.support.stand_in import CHAT, healing, say

OFFLINE = 20.0  # seconds
RATE = 5.0  # messages per second


def _network(proxy: ProxyProcess, rule: str, *those: str) -> None:
    """Append (`-A`) or delete (`-D`) the rules that drop all packets of the proxy's port, or `those`."""
    for side in ("--dport", "--sport"):
        rule_of_side = [rule, "INPUT", "-p", "tcp", side, str(proxy.port), *those, "-j", "DROP"]
        subprocess.run([require("iptables"), *rule_of_side], check=True, capture_output=True)


def _destroy_connections(proxy: ProxyProcess) -> None:
    """Destroy the page's ends of its connections to the proxy. `ss` complains of the proxy's ends."""
    subprocess.run([require("ss"), "-K", "dport", "=", str(proxy.port)], check=False, capture_output=True)


def _cut(proxy: ProxyProcess, told: bool) -> None:
    """Take the page's network away; `told` is whether the proxy gets the reset of its connection."""
    if told:
        _network(proxy, "-A", "--syn")  # the page must not come back before the cut
        _destroy_connections(proxy)
        proxy.wait_for_metric("sse_proxy_streams_closed_total", 1, route="events", reason="client_gone")
    _network(proxy, "-A")
    _destroy_connections(proxy)
    if told:
        _network(proxy, "-D", "--syn")


async def _story(directory: Path, mode: str, told: bool) -> None:
    async with healing(directory, mode, pages=PAGES) as (notify, proxy), browsing(directory) as tab:
        page = Page(tab, proxy.url, notify.token(notify.hub.join(CHAT)))
        await page.open()
        delivered: list[str] = []

        async def talk() -> None:
            for number in range(1_000_000):
                if say(notify, f"message {number}").delivered:
                    delivered.append(f"message {number}")
                await asyncio.sleep(1 / RATE)

        talking = asyncio.create_task(talk())
        await page.until("client.heard.length >= 3")
        _cut(proxy, told)
        await page.until("client.errors > 0")
        before = len(delivered)
        await asyncio.sleep(OFFLINE)
        assert len(proxy.streams()["streams"]) == (0 if told else 1)
        await soon(lambda: len(delivered) > before + OFFLINE)  # the user was spoken to meanwhile
        _network(proxy, "-D")
        await page.until(f"client.heard.length > {len(delivered)}", within=60)
        talking.cancel()
        await page.until(f"client.heard.at(-1) === {delivered[-1]!r}")
        assert await page.value("client.heard") == delivered
        assert await page.value("client.gaps") == []
        assert proxy.metric("sse_proxy_replayed_events_total", route="events") > OFFLINE
        await soon(lambda: proxy.metric("sse_proxy_share_groups", route="events") == 1)


@pytest.mark.parametrize(
    ("mode", "proxy_is"), [("healthy", "not told"), ("silent", "not told"), ("silent", "told")]
)
def test_a_page_that_was_offline_has_missed_nothing_and_gets_nothing_twice(
    mode: str, proxy_is: str, tmp_path: Path
) -> None:
    require("chromium", "google-chrome")
    for name in ("unshare", "iptables", "ss"):
        require(name)
    prepare = 'ip link set lo up && iptables -L -n && exec "$@"'
    alone = [require("unshare"), "--map-root-user", "--net", "sh", "-c", prepare, "sh"]
    path = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    if subprocess.run([*alone, "true"], env=path, check=False, capture_output=True).returncode:
        message = "no network namespace with iptables can be made here (run the tests as root)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    done = subprocess.run(
        [*alone, sys.executable, "-m", __name__, str(tmp_path), mode, proxy_is],
        cwd=Path(__file__).parents[2],
        env=path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    _, folder, server, proxy_is = sys.argv
    run(_story(Path(folder), server, told=proxy_is == "told"), within=240)
