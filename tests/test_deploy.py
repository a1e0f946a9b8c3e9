"""What deploys an edge fits the code: names, ports, times, metrics. More: scripts/check_deploy.

The manifests of deploy/kustomize are the chart's, rendered, so what holds of them holds of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import yaml

from edge.address import parse_address
from edge.config_load import load_config
from edge.metric_names import FAMILIES
from edge.ready import Role
from tests.support.manifest_rules import problems
from tests.support.manifests import Manifest, Policy, read_folders, read_manifests

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUSTOMIZE = DEPLOY / "kustomize"
COMPONENTS = {
    "loadbalancer": ("relay-loadbalancer",),
    "nodes": ("relay-nodes", "autoscaling", "monitoring"),
}
"""Those of each overlay."""


def manifests_of(overlay: str) -> list[Manifest]:
    components = (KUSTOMIZE / "components" / name for name in COMPONENTS[overlay])
    return read_folders(KUSTOMIZE / "base", *components)


@pytest.mark.parametrize("overlay", COMPONENTS)
def test_manifests_fit_each_other_and_the_code(overlay: str, tmp_path: Path) -> None:
    manifests = manifests_of(overlay)
    assert {"Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"} <= {
        manifest.kind for manifest in manifests
    }
    assert list(problems(manifests, tmp_path)) == []


@pytest.mark.parametrize("overlay", COMPONENTS)
def test_overlays_take_these_components(overlay: str) -> None:
    folder = KUSTOMIZE / "overlays" / overlay
    document = yaml.safe_load((folder / "kustomization.yaml").read_text())
    named = [f"../../components/{name}" for name in COMPONENTS[overlay]]
    assert document["components"] == named
    files = [*document["resources"], *(patch["path"] for patch in document.get("patches", ()))]
    assert all((folder / name).exists() for name in files)


Spoil = Callable[[str], str]


SERVICE_SELECTOR = r"(  selector:\n(?:    app.+\n){2}    app.+component: )transceiver"


def swap(old: str, new: str) -> Spoil:
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (swap("EDGE_TRANSCEIVER_MAX_LOAD", "EDGE_TRANSCEIVER_MAXLOAD"), "unknown variable"),
        (
            swap("$(POD_IP):7000", "$(POD_IP):7001"),
            "port media is ('UDP', 7000), not ('UDP', 7001)",
        ),
        (swap("$(POD_IP):3479", "0.0.0.0:3479"), "a wildcard can not be told"),
        (swap("targetPort: http", "targetPort: web"), "no port web of TCP"),
        (swap("port: internal, protocol: UDP", "port: internal, protocol: TCP"), "of TCP"),
        (lambda text: re.sub(SERVICE_SELECTOR, r"\1nobody", text), "Service edge-signaling: it is"),
        (swap("path: /readyz", "path: /healthz"), "probes ask"),
        (swap("terminationGracePeriodSeconds: 25", "terminationGracePeriodSeconds: 18"), "killed"),
        (swap("maxUnavailable: 0", "maxUnavailable: 1"), "nobody is there to take the calls"),
        (swap("replicas: 2", "replicas: 1"), "nobody is there to take the calls"),
        (swap("noeviction", "volatile-ttl"), "it evicts the leases"),
        (swap("name: edge_load", "name: edge_burden"), "no metric edge_burden"),
        (swap("externalTrafficPolicy: Local", ""), "clients' addresses are lost"),
        (swap("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"), "more rights"),
    ],
)
def test_what_does_not_fit_is_found(spoil: Spoil, found: str, tmp_path: Path) -> None:
    folders = [KUSTOMIZE / "base", *(KUSTOMIZE / "components").iterdir()]
    files = [f for folder in folders for f in folder.glob("*.yaml") if f.name[:5] != "kusto"]
    texts = [file.read_text() for file in files if file.parent.name != "relay-nodes"]
    spoiled = [spoil(text) for text in texts]
    assert spoiled != texts
    said = list(problems(read_manifests(spoiled), tmp_path))
    assert any(found in problem for problem in said), said


@pytest.mark.parametrize("overlay", COMPONENTS)
def test_only_who_has_to_reaches_a_transceiver(overlay: str) -> None:
    policies = {m.metadata.name: m for m in manifests_of(overlay) if m.kind == "NetworkPolicy"}
    ports = {
        port.port: {
            peer.pod_selector.match_labels["app.kubernetes.io/component"]
            for peer in rule.from_ or ()
            if peer.pod_selector is not None
        }
        for rule in policies["edge-transceiver"].read(Policy).ingress
        for port in rule.ports
    }
    # A transceiver passes on datagrams of a call that moves, and requests about it.
    assert ports == {"media": {"relay", "transceiver"}, "http": {"transceiver"}}


def test_the_adapter_makes_the_metric_that_the_autoscaler_asks_for() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "adapter.yml").read_text())["rules"]["custom"]
    assert [rule["name"]["as"] for rule in rules] == ["edge_load"]
    assert all(re.match(r"\w+", rule["seriesQuery"])[0] in FAMILIES for rule in rules)  # type: ignore[index]


def test_the_chart_brings_the_dashboard_and_the_alerts() -> None:
    files = DEPLOY / "helm" / "edge" / "files"
    assert (files / "dashboard.json").resolve() == DEPLOY / "grafana" / "edge.json"
    assert (files / "alerts.yml").resolve() == DEPLOY / "prometheus" / "alerts.yml"


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((DEPLOY / "helm" / "edge" / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert project is not None
    assert chart["appVersion"] == project[1]


class ComposeService(msgspec.Struct):
    """What is read of a service of compose.yaml."""

    networks: dict[str, dict[str, str] | None] | list[str]
    command: list[str] = []
    environment: dict[str, str] = {}
    volumes: list[str] = []
    ports: list[str] = []


class Compose(msgspec.Struct):
    """What is read of compose.yaml."""

    services: dict[str, ComposeService]
    volumes: dict[str, None]


COMPOSE = msgspec.convert(yaml.safe_load((ROOT / "compose.yaml").read_text()), Compose)
PARTS = ("relay", "transceiver-1", "transceiver-2")


@pytest.mark.parametrize("name", PARTS)
def test_compose_configures_what_there_is(name: str) -> None:
    service = COMPOSE.services[name]
    values = {
        variable: re.sub(r"\$\{\w+:-(.+)\}", r"\1", value)
        for variable, value in service.environment.items()
    }
    values["EDGE_REGISTRY_SECRET"] = "s" * 32
    config = load_config(None, values, {}, role=msgspec.convert(service.command[0], Role))
    assert isinstance(service.networks, dict)
    own = (service.networks["fleet"] or {})["ipv4_address"]
    udp = config.relay.bind if name == "relay" else config.transceiver.bind
    assert {parse_address(each)[0] for each in (udp, config.http.bind)} == {own}
    redis = COMPOSE.services["redis"].networks
    assert isinstance(redis, dict)
    assert (redis["fleet"] or {})["ipv4_address"] in config.registry.url


def test_compose_shows_what_all_of_them_say() -> None:
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "compose.yml").read_text())
    (job,) = scrape["scrape_configs"]
    assert job["job_name"] == "edge"
    assert job["static_configs"][0]["targets"] == [f"{name}:8080" for name in PARTS]
    source = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    mounted = [volume.split(":")[0] for s in COMPOSE.services.values() for volume in s.volumes]
    for name in mounted:
        assert name in COMPOSE.volumes or (ROOT / name).exists()


def test_the_image_has_what_it_is_built_from() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = {
        name.strip("./")
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.M)
        for name in line.split()
    }
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    assert re.search(r'^ENTRYPOINT \["edge"\]$', dockerfile, re.M)
    assert re.search(r"^USER \d+:\d+$", dockerfile, re.M)
