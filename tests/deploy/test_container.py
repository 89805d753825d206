"""What the image and the manifests are made of, as far as it can be told without an engine.

`deploy/docker/try` builds the image and tries it on a Docker host.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from sse_keepalive_proxy import __version__
from sse_keepalive_proxy.config import Settings, load
from sse_keepalive_proxy.config.types.units import parse_duration
from sse_keepalive_proxy.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UPSTREAM = "SSE_KEEPALIVE_PROXY_UPSTREAM"


def locked(file: str) -> dict[str, str]:
    """The versions that a lock file pins, each of which has hashes."""
    text = (DEPLOY / "docker" / file).read_text()
    entries = re.findall(
        r"(?m)^([a-z0-9.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text
    )
    assert len(entries) == text.count("==")
    return {name: version for name, version, _ in entries}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def group(name: str) -> list[str]:
    """The requirements of a dependency group, those of the groups that it includes among them."""
    found: list[str] = []
    for each in project()["dependency-groups"][name]:
        found += [each] if isinstance(each, str) else group(each["include-group"])
    return found


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("runtime.lock", project()["project"]["dependencies"]),
        ("build.lock", [*group("build"), *project()["build-system"]["requires"]]),
    ],
    ids=["runtime", "build"],
)
def test_the_lock_has_every_dependency_in_a_version_that_is_asked_for(file: str, wanted: list[str]) -> None:
    versions = locked(file)
    for requirement in map(Requirement, wanted):
        version = versions[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(version), (
            f"{requirement} is locked to {version}: run `make lock`"
        )


def test_without_a_mounted_file_naming_an_upstream_is_enough_and_needed() -> None:
    settings = load(DEPLOY / "docker" / "config.yaml", environ={UPSTREAM: "http://app:1"}).settings
    assert [(route.match.path, route.stream is not None) for route in settings.routes] == [("/*", True)]
    assert settings.upstreams["default"].url == "http://app:1"
    with pytest.raises(ConfigurationError, match=f"{UPSTREAM} is not set"):
        load(DEPLOY / "docker" / "config.yaml", environ={})


def test_the_image_runs_as_nobody_in_particular_and_can_be_probed_and_stopped() -> None:
    final = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.search(r"(?m)^USER 65532:65532$", final)
    assert re.search(r"(?m)^STOPSIGNAL SIGTERM$", final)
    assert "HEALTHCHECK" in final
    assert "RUN" not in final  # nothing is installed in it


def test_the_image_is_compiled_where_its_first_stage_has_a_compiler() -> None:
    first = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[0]
    assert re.search(r'(?m)^ARG COMPILER=".*\bgcc\b.*"$', first)
    assert "RUN SSE_PROXY_COMPILE=${COMPILER:+1} /opt/build/bin/python -m hatchling build" in first
    assert "mypy[mypyc]" in " ".join(group("build"))


def test_the_container_asks_for_its_health_without_reading_a_configuration() -> None:
    final = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert "SSE_KEEPALIVE_PROXY_ADMIN_LISTEN=0.0.0.0:9090" in final


def settings_of_map(file: str, directory: Path) -> Settings:
    """The configuration inside the ConfigMap of a manifest."""
    for document in yaml.safe_load_all((DEPLOY / "kubernetes" / file).read_text()):
        if document["kind"] == "ConfigMap":
            written = directory / file
            written.write_text(document["data"]["config.yaml"])
            return load(written, environ={}).settings
    raise AssertionError("there is no ConfigMap")


def test_every_configuration_that_is_deployed_is_valid_and_treats_notify_server_alike(tmp_path: Path) -> None:
    compose = load(DEPLOY / "proxy.yaml", environ={}).settings
    kubernetes, sidecar = (settings_of_map(file, tmp_path) for file in ("deployment.yaml", "sidecar.yaml"))
    example = load(ROOT / "config.example.yaml", environ={}).settings
    for settings in (compose, kubernetes, sidecar):
        for deployed, shown in zip(settings.routes, example.routes, strict=True):
            assert (deployed.name, deployed.match, deployed.cors) == (shown.name, shown.match, shown.cors)
            assert (deployed.stream and deployed.stream.policy) == (shown.stream and shown.stream.policy)
    for settings in (compose, kubernetes):
        assert settings.upstreams == example.upstreams
    assert sidecar.upstreams["notify"].url == "http://127.0.0.1:6687"  # the same pod


@pytest.mark.parametrize("file", ["deployment.yaml", "sidecar.yaml"])
def test_a_pod_has_time_to_drain_and_the_probes_of_the_admin_listener(file: str) -> None:
    drain = load(ROOT / "config.example.yaml", environ={}).settings.drain.timeout
    (pod,) = (
        document["spec"]["template"]["spec"]
        for document in yaml.safe_load_all((DEPLOY / "kubernetes" / file).read_text())
        if document["kind"] == "Deployment"
    )
    (proxy,) = (container for container in pod["containers"] if container["name"] == "proxy")
    pause = int(re.search(r"sleep\((\d+)\)", proxy["lifecycle"]["preStop"]["exec"]["command"][-1])[1])
    assert pod["terminationGracePeriodSeconds"] > pause + drain
    assert proxy["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
    assert proxy["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "admin"}
    assert {"name": "admin", "containerPort": 9090} in proxy["ports"]
    assert proxy["image"] == f"sse-keepalive-proxy:{__version__}"


def test_the_probes_of_notify_server_ask_the_proxy_for_an_upstream_that_it_has() -> None:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "sidecar.yaml").read_text())
    (pod,) = (each["spec"]["template"]["spec"] for each in documents if each["kind"] == "Deployment")
    (server,) = (container for container in pod["containers"] if container["name"] == "notify-server")
    assert server["livenessProbe"]["httpGet"] == {"path": "/upstreams/notify", "port": 9090}
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    _, _, admin, upstream, verdict = services["watch"]["entrypoint"]
    assert (admin, upstream) == ("http://proxy:9090", "notify")
    assert services["notify-server"]["entrypoint"][-1] == verdict
    for service in ("watch", "notify-server"):
        assert any(volume.startswith("verdict:/verdict") for volume in services[service]["volumes"])
    assert "notify" in load(DEPLOY / "proxy.yaml", environ={}).settings.upstreams


def test_compose_gives_the_proxy_time_to_drain() -> None:
    proxy = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["proxy"]
    drain = load(DEPLOY / "proxy.yaml", environ={}).settings.drain.timeout
    assert parse_duration(proxy["stop_grace_period"]) > drain
    assert proxy["read_only"] is True
