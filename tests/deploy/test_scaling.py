"""Several replicas behind a balancer: what `deploy/` says of it, given to nginx, HAProxy and Prometheus as it
stands; the figures of the manifests, held against each other.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from sse_keepalive_proxy.config import Settings, load
from sse_keepalive_proxy.config.types.units import parse_duration
from sse_keepalive_proxy.demo.knobs import Knobs
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.demo.tokens import Hs256Tokens
from tests.deploy.replicas import DEPLOY, Clients, Replicas, haproxy, nginx
from tests.support.looping import in_loop
from tests.support.programs import require
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import UpstreamConnection, chunk
from tests.support.running import soon

HASHED = "balance url_param access_token\n  hash-type consistent\n"
BOUNDED = "hash-balance-factor 125"
LEAST = {
    nginx: ("hash $replica_by consistent;", "least_conn;"),
    haproxy: (HASHED, "balance leastconn\n"),
}
BY_USER = "balance hash url_param(access_token),jwt_payload_query('$.sub')"

balancers = pytest.mark.parametrize("balancer", [nginx, haproxy], ids=["nginx", "haproxy"])


async def places(clients: Clients, replicas: Replicas, tokens: Sequence[str | None]) -> list[int]:
    """Open a stream with each of the tokens; which replica each has come to."""
    found = []
    for token in tokens:
        before = replicas.counts
        await clients.open(token)
        changed = [after - was for after, was in zip(replicas.counts, before, strict=True)]
        assert sorted(changed) == [0, 1]
        found.append(changed.index(1))
    return found


# Where a stream goes.


@balancers
@in_loop
async def test_streams_with_one_credential_meet_on_one_replica(balancer: Any, tmp_path: Path) -> None:
    tokens = [f"token-{number}" for number in range(24)]
    async with Replicas() as replicas, balancer(tmp_path, replicas) as front, Clients(front) as clients:
        first = await places(clients, replicas, tokens)
        assert set(first) == {0, 1}
        assert await places(clients, replicas, tokens) == first


@in_loop
async def test_nginx_goes_by_the_clients_address_where_there_is_no_credential(tmp_path: Path) -> None:
    async with Replicas() as replicas, nginx(tmp_path, replicas) as front, Clients(front) as clients:
        assert len(set(await places(clients, replicas, [None] * 8))) == 1


@in_loop
async def test_haproxy_can_go_by_whom_a_token_is_for(tmp_path: Path) -> None:
    assert f"#   {BY_USER}\n" in (DEPLOY / "haproxy" / "scaled.cfg").read_text()
    tokens = Hs256Tokens()
    users = range(1, 13)
    change = (HASHED, f"{BY_USER}\n  hash-type consistent\n")
    async with (
        Replicas() as replicas,
        haproxy(tmp_path, replicas, change) as front,
        Clients(front) as clients,
    ):
        mornings = [tokens.issue(user, lifetime=1800) for user in users]
        evenings = [tokens.issue(user, lifetime=3600) for user in users]
        assert set(mornings).isdisjoint(evenings)
        first = await places(clients, replicas, mornings)
        assert set(first) == {0, 1}
        assert await places(clients, replicas, evenings) == first


@in_loop
async def test_haproxy_gives_no_replica_more_than_a_quarter_above_its_share(tmp_path: Path) -> None:
    assert f"#   {BOUNDED}\n" in (DEPLOY / "haproxy" / "scaled.cfg").read_text()
    change = (HASHED, f"{HASHED}  {BOUNDED}\n")
    async with (
        Replicas() as replicas,
        haproxy(tmp_path, replicas, change) as front,
        Clients(front) as clients,
    ):
        await places(clients, replicas, ["everybody's"] * 40)
        assert min(replicas.counts) >= 14  # the other has 25 or 26 of 40


@balancers
@in_loop
async def test_by_least_connections_a_replica_gets_its_share(balancer: Any, tmp_path: Path) -> None:
    async with (
        Replicas() as replicas,
        balancer(tmp_path, replicas, LEAST[balancer]) as front,
        Clients(front) as clients,
    ):
        await places(clients, replicas, ["everybody's"] * 20)
        assert replicas.counts == [10, 10]


# Shared streams.

CREDENTIAL = "share: {by: credential, replay: {ids: add}}"
HASH_OF_NGINX = ("hash $replica_by consistent;", "hash $arg_access_token consistent;")
GUIDE = DEPLOY.parent / "docs" / "guides" / "scaling.md"
CLAIM = "share: {by: claim:sub}, identity: {verify: upstream}, reconnect: {when: always, delay: 10ms}"


@pytest.mark.parametrize(
    ("balancer", "of_the_guide", "changes"),
    [
        (nginx, "hash $arg_access_token consistent;", [HASH_OF_NGINX]),
        (haproxy, HASHED, []),
    ],
    ids=["nginx", "haproxy"],
)
@in_loop
async def test_tabs_with_one_token_share_one_upstream(
    balancer: Any, of_the_guide: str, changes: list[tuple[str, str]], tmp_path: Path
) -> None:
    assert of_the_guide in GUIDE.read_text(encoding="utf-8")
    # nginx hashes the port of a replica, too, and the ports change. With twelve tokens, all would go to one
    # replica once in 2,000 runs; with 24, once in 8 million.
    tokens = [f"token-{number}" for number in range(24)]
    async with (
        Replicas(stream=CREDENTIAL) as replicas,
        balancer(tmp_path, replicas, *changes) as front,
        Clients(front) as clients,
    ):
        for token in tokens * 2:
            await clients.open(token)
        assert sum(replicas.counts) == 48
        groups = [int(replicas.metric(which, "share_groups", route="events")) for which in (0, 1)]
        assert min(groups) > 0
        assert sum(groups) == len(asked_for_streams(replicas)) == len(tokens)


def asked_for_streams(replicas: Replicas) -> list[UpstreamConnection]:
    """The connections on which upstream was asked for a stream."""
    return [found for found in replicas.upstream.connections if found.received.startswith(b"GET /events")]


@balancers
@in_loop
async def test_a_client_that_comes_to_another_replica_has_an_upstream_there_and_is_told_of_the_gap(
    balancer: Any, tmp_path: Path
) -> None:
    async with (
        Replicas(stream=CREDENTIAL) as replicas,
        balancer(tmp_path, replicas) as front,
        Clients(front) as clients,
    ):
        tab = await clients.open("token")
        (first,) = asked_for_streams(replicas)
        await first.send(chunk(b"data: 1\n\n"))
        await tab.wait_for(b"data: 1")
        (last,) = [event.last_event_id for event in tab.events if event.data == "1"]
        home = replicas.counts.index(1)
        await replicas.stop(home)
        await soon(lambda: is_over(tab))
        again = await clients.open("token", f"Last-Event-ID: {last}")
        await again.wait_for(b"stream_gap")
        assert replicas.counts[1 - home] == 1
        (gap,) = [event.data for event in again.events if event.type == "stream_gap"]
        assert json.loads(gap)["reason"] == "unknown"
        await asked_for_streams(replicas)[-1].send(chunk(b"data: 2\n\n"))
        await again.wait_for(b"data: 2")


@in_loop
async def test_two_tokens_of_a_user_that_come_to_two_replicas_take_the_place_from_each_other(
    tmp_path: Path,
) -> None:
    notify = NotifyServer(knobs=Knobs(opening_cost=0.0))
    await notify.start()
    async with (
        Replicas(stream=CLAIM, upstream=notify.url) as replicas,
        nginx(tmp_path, replicas) as front,
        Clients(front) as clients,
    ):
        tabs = []
        for lifetime in range(1800, 1900):
            tabs.append(await clients.open(notify.token(2, lifetime=lifetime)))
            if min(replicas.counts):
                break
        before = notify.hub.opened_total
        await soon(lambda: notify.hub.opened_total >= before + 6)
        assert all(tab.ending is None for tab in tabs)
    await notify.stop()


@in_loop
async def test_two_tokens_of_a_user_share_one_upstream_if_the_balancer_goes_by_the_user(
    tmp_path: Path,
) -> None:
    notify = NotifyServer(knobs=Knobs(opening_cost=0.0))
    await notify.start()
    async with (
        Replicas(stream=CLAIM, upstream=notify.url) as replicas,
        haproxy(tmp_path, replicas, (HASHED, f"{BY_USER}\n  hash-type consistent\n")) as front,
        Clients(front) as clients,
    ):
        for lifetime in range(1800, 1808):
            await clients.open(notify.token(2, lifetime=lifetime))
        assert sorted(replicas.counts) == [0, 8]
        await notify.wait_open(1)
        assert notify.hub.opened_total == 8  # each token once
    await notify.stop()


# When a replica cannot take it.


@balancers
@in_loop
async def test_no_client_sees_that_one_replica_is_full(balancer: Any, tmp_path: Path) -> None:
    async with (
        Replicas(limits="max_streams: 2") as replicas,
        balancer(tmp_path, replicas) as front,
        Clients(front) as clients,
    ):
        for number in range(32):  # of fewer, by chance no more than two may be for the first replica
            await clients.open(f"token-{number}")
        assert replicas.counts == [2, 30]
        assert replicas.metric(0, "streams_rejected_total", route="events", reason="max_streams") > 0


@balancers
@in_loop
async def test_who_loses_a_replica_finds_the_other_at_once(balancer: Any, tmp_path: Path) -> None:
    async with Replicas() as replicas, balancer(tmp_path, replicas) as front, Clients(front) as clients:
        opened = [await clients.open(f"token-{number}") for number in range(20)]
        moved = replicas.counts[0]
        assert moved
        await replicas.stop(0)
        await soon(lambda: sum(map(is_over, opened)) == moved, lambda: f"{moved} should be over")
        for number, client in enumerate(opened):
            if is_over(client):
                await clients.open(f"token-{number}")
        assert replicas.counts == [0, 20]
        assert await clients.ask() == 200


def is_over(client: RawClient) -> bool:
    """Whether its stream has ended. The balancer may keep the connection for another request."""
    return client.response.complete or client.ending is not None


# The manifests.


def documents(file: str) -> dict[str, dict[str, Any]]:
    """The documents of a manifest, by their kind."""
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes" / file).read_text()))
    return {document["kind"]: document for document in found}


@pytest.fixture
def scaled() -> dict[str, dict[str, Any]]:
    return documents("scaled.yaml")


def configured(manifest: dict[str, dict[str, Any]], directory: Path) -> Settings:
    written = directory / "config.yaml"
    written.write_text(manifest["ConfigMap"]["data"]["config.yaml"])
    return load(written, environ={}).settings


def pod(manifest: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["Deployment"]["spec"]["template"]["spec"]
    return spec


def test_many_replicas_treat_a_stream_as_one_does(scaled: dict[str, Any], tmp_path: Path) -> None:
    one = configured(documents("deployment.yaml"), tmp_path)
    many = configured(scaled, tmp_path)
    assert many.routes == one.routes
    assert many.upstreams == one.upstreams


def test_a_replica_has_time_to_drain_and_clients_to_come_back(scaled: dict[str, Any], tmp_path: Path) -> None:
    drain = configured(scaled, tmp_path).drain
    (container,) = pod(scaled)["containers"]
    pause = float(re.findall(r"sleep\((\d+)\)", str(container["lifecycle"]["preStop"]))[0])
    assert drain.spread < drain.timeout
    assert pod(scaled)["terminationGracePeriodSeconds"] > pause + drain.timeout
    rolling = scaled["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert rolling["maxUnavailable"] == 0  # a new one is ready before an old one drains


def test_everything_is_about_the_same_pods(scaled: dict[str, Any]) -> None:
    deployment = scaled["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = [
        deployment["selector"]["matchLabels"],
        scaled["Service"]["spec"]["selector"],
        scaled["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod(scaled)["topologySpreadConstraints"]),
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    target = scaled["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["kind"] == "Deployment"
    assert target["name"] == scaled["Deployment"]["metadata"]["name"]


def test_the_autoscaler_alone_decides_how_many(scaled: dict[str, Any]) -> None:
    assert "replicas" not in scaled["Deployment"]["spec"]
    budget = scaled["PodDisruptionBudget"]["spec"]
    assert set(budget) == {"maxUnavailable", "selector"}  # `minAvailable` would have to follow its number
    assert scaled["HorizontalPodAutoscaler"]["spec"]["minReplicas"] > budget["maxUnavailable"]


def test_the_autoscaler_acts_before_replicas_are_full(scaled: dict[str, Any], tmp_path: Path) -> None:
    streams, cpu = scaled["HorizontalPodAutoscaler"]["spec"]["metrics"]
    limits = configured(scaled, tmp_path).limits
    assert int(streams["pods"]["target"]["averageValue"]) <= 0.75 * limits.max_streams
    assert limits.max_connections > limits.max_streams
    assert cpu["resource"]["target"] == {"type": "AverageValue", "averageValue": "700m"}
    (container,) = pod(scaled)["containers"]
    assert container["resources"]["requests"]["cpu"] == "1"
    (sysctl,) = pod(scaled)["securityContext"]["sysctls"]
    first, last = map(int, sysctl["value"].split())
    assert last - first + 1 > limits.max_streams
    assert first > max(
        port["containerPort"] for port in container["ports"]
    )  # which it would be lent otherwise


def test_the_adapter_tells_the_autoscaler_the_streams_of_each_pod(
    scaled: dict[str, Any], tmp_path: Path
) -> None:
    values = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    metric = scaled["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert rule["seriesQuery"] == f'{metric}{{namespace!="",pod!=""}}'
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}
    assert "name" not in rule  # it keeps its own
    query = rule["metricsQuery"]
    for field, value in {
        "Series": metric,
        "LabelMatchers": 'namespace="default",pod=~"a|b"',
        "GroupBy": "pod",
    }.items():
        assert f"<<.{field}>>" in query
        query = query.replace(f"<<.{field}>>", value)
    answers(tmp_path, query, metric, {'{pod="a"}': 5010, '{pod="b"}': 300})


def answers(directory: Path, query: str, metric: str, expected: dict[str, int]) -> None:
    """promtool has these samples for a query, of three pods with some routes and states."""
    held = {
        'namespace="default",pod="a",route="events",state="idle"': 5000,
        'namespace="default",pod="a",route="chat",state="flowing"': 10,
        'namespace="default",pod="b",route="events",state="idle"': 300,
        'namespace="other",pod="a",route="events",state="idle"': 7,
    }
    inputs = [{"series": f"{metric}{{{labels}}}", "values": f"{n}x5"} for labels, n in held.items()]
    samples = [{"labels": labels, "value": value} for labels, value in expected.items()]
    test = {"expr": query, "eval_time": "1m", "exp_samples": samples}
    told = {"tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": [test]}]}
    file = directory / "test.yml"
    file.write_text(json.dumps(told))
    run(["promtool", "test", "rules", file])


def test_prometheus_takes_the_configuration_for_many_replicas() -> None:
    run(["promtool", "check", "config", "scaled.yml"])
    (job,) = yaml.safe_load((DEPLOY / "prometheus" / "scaled.yml").read_text())["scrape_configs"]
    (one,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["job_name"] == one["job_name"]  # the alerts go by it
    assert job["dns_sd_configs"][0]["port"] == 9090


def run(command: Sequence[str | Path]) -> None:
    program, *arguments = command
    done = subprocess.run(
        [require(str(program)), *arguments],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Compose.


def test_compose_runs_replicas_that_haproxy_and_prometheus_find() -> None:
    services = yaml.safe_load((DEPLOY / "compose.scaled.yaml").read_text())["services"]
    proxy, balancer = services["proxy"], services["balancer"]
    assert proxy["deploy"]["replicas"] > 1
    assert {"ports", "container_name"}.isdisjoint(proxy)  # of which there is one for all of them
    told = (DEPLOY / "haproxy" / "scaled.cfg").read_text()
    rooms = [int(found) for found in re.findall(r"server-template proxy (\d+) proxy:8080 ", told)]
    assert min(rooms) >= proxy["deploy"]["replicas"]
    (discovery,) = yaml.safe_load((DEPLOY / "prometheus" / "scaled.yml").read_text())["scrape_configs"]
    assert discovery["dns_sd_configs"][0]["names"] == ["proxy"]
    for service, inside in (
        (balancer, "/usr/local/etc/haproxy/haproxy.cfg"),
        (services["prometheus"], "/etc/prometheus/prometheus.yml"),
    ):
        outside = next(volume.split(":")[0] for volume in service["volumes"] if f":{inside}:" in volume)
        assert (DEPLOY / outside).is_file()


def test_compose_gives_every_one_the_descriptors_and_the_time_that_it_needs() -> None:
    services = yaml.safe_load((DEPLOY / "compose.scaled.yaml").read_text())["services"]
    proxy, balancer = services["proxy"], services["balancer"]
    settings = load(DEPLOY / "proxy.yaml", environ={}).settings
    assert (proxy["ulimits"]["nofile"] - 200) // 2 >= settings.limits.max_connections
    assert parse_duration(proxy["stop_grace_period"]) > settings.drain.timeout
    told = (DEPLOY / "haproxy" / "scaled.cfg").read_text()
    maximum, hard_stop = (re.findall(rf"{name} +(\w+)", told)[0] for name in ("maxconn", "hard-stop-after"))
    assert balancer["ulimits"]["nofile"] > 2 * int(maximum)
    assert parse_duration(balancer["stop_grace_period"]) > parse_duration(hard_stop)
