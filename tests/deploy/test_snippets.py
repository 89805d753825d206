"""What `deploy/` tells to nginx, Caddy and Prometheus, given to these programs as it stands."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from sse_keepalive_proxy.cli import build_parser
from tests.support.hops import caddy_of, nginx_of
from tests.support.instance import EVENT_SOURCE
from tests.support.looping import in_loop
from tests.support.programs import free_port, require
from tests.support.raw_client import RawClient
from tests.support.stand_in import event_source, healing, listening, new_user, pings, said, say

DEPLOY = Path(__file__).parents[2] / "deploy"


def localised(file: str, port: int, **places: str) -> str:
    """A file of `deploy/`, its listener on `port` and each name of `places` (`proxy`) at a URL. Every one of
    them has to occur.
    """
    text = (DEPLOY / file).read_text()
    listening = {
        ".conf": ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ".Caddyfile": ("\n:8080 {", f"\n:{port} {{"),
    }
    ports = {"proxy": 8080, "notify_server": 6687}
    changes = [
        *((f"{name.replace('_', '-')}:{ports[name]}", urlsplit(url).netloc) for name, url in places.items()),
        listening[Path(file).suffix],
    ]
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def nginx_with(directory: Path, file: str, **places: str) -> Iterator[str]:
    """nginx with a file of `deploy/nginx/` as its `http` section; its URL."""
    port = free_port()
    with nginx_of(directory, localised(f"nginx/{file}", port, **places), port) as (url,):
        yield url


@contextlib.contextmanager
def caddy_with(directory: Path, file: str, **places: str) -> Iterator[str]:
    """Caddy with a file of `deploy/caddy/`; its URL."""
    port = free_port()
    with caddy_of(directory, localised(f"caddy/{file}", port, **places), port) as (url,):
        yield url


@in_loop
@pytest.mark.parametrize(("hop", "file"), [(nginx_with, "front.conf"), (caddy_with, "front.Caddyfile")])
async def test_in_front_a_stream_is_confirmed_kept_alive_known_by_its_client_and_outlives_upstreams(
    hop, file: str, tmp_path: Path
) -> None:
    async with healing(tmp_path, interval="300ms") as (notify, proxy):
        with hop(tmp_path, file, proxy=proxy.url) as front:
            async with await event_source(front, notify) as client:
                await client.wait_for(lambda client: pings(client.body) >= 2)
                (stream,) = proxy.streams()["streams"]
                assert stream["client"] == "127.0.0.1"
                await listening(notify)
                say(notify, "hi")  # upstream ends its stream behind it
                await client.wait_for(b"stream_recovered")
                assert [data["type"] for data in said(client)] == ["connection_confirmed", "new_message"]
                assert client.ending is None
            async with await RawClient.connect(front) as client:
                client.request("/health")
                assert (await client.wait_response()).status == 200


@in_loop
@pytest.mark.parametrize(("hop", "file"), [(nginx_with, "behind.conf"), (caddy_with, "behind.Caddyfile")])
async def test_behind_the_proxy_nothing_is_held_back_from_it(hop, file: str, tmp_path: Path) -> None:
    async with healing(tmp_path, mode="healthy") as (notify, _):
        with hop(tmp_path, file, notify_server=notify.url) as behind:
            async with await RawClient.connect(behind) as client:
                client.request(new_user(notify)[1], EVENT_SOURCE)
                await client.wait_for(b"connection_confirmed")  # upstream's own: at once, through the hop
                await listening(notify)
                say(notify, "hi")
                await client.wait_for(b"new_message")
                assert client.ending is None


def test_prometheus_takes_its_configuration_and_its_rules() -> None:
    checked = subprocess.run(
        [require("promtool"), "check", "config", "prometheus.yml"],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_last_ingress_rule_of_cloudflared_takes_everything() -> None:
    *rules, last = yaml.safe_load((DEPLOY / "cloudflared" / "config.yml").read_text())["ingress"]
    assert all(rule["hostname"] for rule in rules)
    assert set(last) == {"service"}  # cloudflared refuses a configuration without it


def test_systemd_takes_the_units_and_the_proxy_their_command(tmp_path: Path) -> None:
    service = (DEPLOY / "systemd" / "sse-keepalive-proxy.service").read_text()
    program = "/opt/sse-keepalive-proxy/bin/sse-keepalive-proxy"
    (command,) = re.findall(rf"^ExecStart={program} (.+)$", service, re.MULTILINE)
    assert build_parser().parse_args(command.split()).config == "/etc/sse-keepalive-proxy/config.yaml"
    units = [tmp_path / f"sse-keepalive-proxy.{kind}" for kind in ("service", "socket")]
    for unit in units:
        unit.write_text((DEPLOY / "systemd" / unit.name).read_text().replace(program, sys.executable))
    checked = subprocess.run(
        [require("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", *map(str, units)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
