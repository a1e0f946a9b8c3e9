"""Whether Kubernetes manifests fit each other and the code.

Schemas are for others (scripts/check_deploy); here names meet: ports, labels, Secrets, variables,
metrics, and times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edge.address import parse_address
from edge.app.sockets import plan_listeners
from edge.cli import CANCEL_SECONDS, DRAIN_GRACE_SECONDS
from edge.config import Config
from edge.config_load import load_config
from edge.errors import ConfigError
from edge.http.operations import operations_routes
from edge.metric_names import FAMILIES
from edge.ready import Role
from tests.support.manifests import (
    WORKLOADS,
    Container,
    Manifest,
    Pod,
    Policy,
    Selecting,
    Service,
    Workload,
    environment,
)

PATHS: Final = {getattr(route, "path", "") for route in operations_routes(bytes, bool)}


def problems(manifests: Sequence[Manifest], folder: Path) -> Iterator[str]:
    """Say what does not fit; ``folder`` is an empty one, for the files of secrets."""
    workloads = {m.title: m.read(Workload) for m in manifests if m.kind in WORKLOADS}
    pods = [each.template for each in workloads.values()]
    for title, workload in workloads.items():
        if not workload.selector.fits(workload.template.metadata.labels):
            yield f"{title}: its selector is not of its own pods"
        yield from (f"{title}: {what}" for what in _pod_problems(workload.template, folder))
        yield from (f"{title}: {what}" for what in _heir_problems(workload))
    for manifest in manifests:
        yield from (f"{manifest.title}: {what}" for what in _fit(manifest, manifests, pods))


def _fit(manifest: Manifest, manifests: Sequence[Manifest], pods: list[Pod]) -> Iterator[str]:
    match manifest.kind:
        case "Service":
            yield from _service_problems(manifest.read(Service), pods)
        case "NetworkPolicy":
            yield from _policy_problems(manifest.read(Policy), pods)
        case "PodDisruptionBudget":
            selector = manifest.read(Selecting).selector
            if not any(selector.fits(pod.metadata.labels) for pod in pods):
                yield "it is about no pod"
        case "ServiceMonitor":
            selector = manifest.read(Selecting).selector
            if not any(m.kind == "Service" and selector.fits(m.metadata.labels) for m in manifests):
                yield "it is about no Service"
        case "HorizontalPodAutoscaler":
            yield from _autoscaler_problems(manifest, manifests)
        case "Ingress":
            names = {m.metadata.name for m in manifests if m.kind == "Service"}
            yield from (
                f"no Service {n}" for n in _values(manifest.spec, "service") if n not in names
            )


def _service_problems(service: Service, pods: list[Pod]) -> Iterator[str]:
    chosen = [pod for pod in pods if service.selector.items() <= pod.metadata.labels.items()]
    if not chosen:
        yield "it is about no pod"
    for port in service.ports:
        if not all(_has_port(pod, port.target_port, port.protocol) for pod in chosen):
            yield f"no port {port.target_port} of {port.protocol}"
    if service.type == "LoadBalancer" and service.external_traffic_policy != "Local":
        yield "clients' addresses are lost"


def _policy_problems(policy: Policy, pods: list[Pod]) -> Iterator[str]:
    chosen = [pod for pod in pods if policy.pod_selector.fits(pod.metadata.labels)]
    if not chosen:
        yield "it is about no pod"
    for rule in policy.ingress:
        for port in rule.ports:
            if not all(_has_port(pod, port.port, port.protocol) for pod in chosen):
                yield f"no port {port.port} of {port.protocol}"
        for peer in rule.from_ or ():
            selector = None if peer.namespace_selector else peer.pod_selector
            if selector and not any(selector.fits(pod.metadata.labels) for pod in pods):
                yield "it lets nobody in"


def _autoscaler_problems(manifest: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    target = _values(manifest.spec, "scaleTargetRef")
    if not any(m.kind == "Deployment" and [m.metadata.name] == target for m in manifests):
        yield "it scales nothing"
    yield from (f"no metric {n}" for n in _values(manifest.spec, "metric") if n not in FAMILIES)


def _heir_problems(workload: Workload) -> Iterator[str]:
    """A transceiver that goes needs another one that takes its calls."""
    (container, *_) = workload.template.spec.containers
    update = workload.strategy.rolling_update
    if container.name != "transceiver":
        return
    if workload.replicas == 1 or (update.max_unavailable, update.max_surge) != (0, 1):
        yield "nobody is there to take the calls of one that goes"


def _pod_problems(pod: Pod, folder: Path) -> Iterator[str]:
    if not pod.spec.security_context.run_as_non_root or pod.spec.automount_service_account_token:
        yield "more rights than it needs"
    for container in pod.spec.containers:
        security = container.security_context
        if security.allow_privilege_escalation or not security.read_only_root_filesystem:
            yield "more rights than it needs"
        if container.name in ("relay", "transceiver"):
            yield from _edge_problems(pod, container, folder)
        elif container.name == "redis" and "noeviction" not in container.args:
            yield "it evicts the leases of who lives"


def _edge_problems(pod: Pod, container: Container, folder: Path) -> Iterator[str]:
    role = msgspec.convert(container.args[0], Role)
    try:
        config = load_config(None, environment(container, folder, "10.1.2.3"), {}, role=role)
    except ConfigError as error:
        yield str(error)
        return
    bound = dict(_relay_ports(config) if role == "relay" else _transceiver_ports(config))
    declared = {port.name: (port.protocol, port.container_port) for port in container.ports}
    for name in sorted({**bound, **declared}):
        if bound.get(name) != declared.get(name):
            yield f"port {name} is {declared.get(name)}, not {bound.get(name)}"
    paths = [
        p.http_get.path for p in (container.liveness_probe, container.readiness_probe) if p.http_get
    ]
    if paths != ["/healthz", "/readyz"] or not set(paths) <= PATHS:
        yield f"probes ask {paths}"
    pause = container.lifecycle.pre_stop.sleep.seconds if container.lifecycle else 0
    if pod.spec.termination_grace_period_seconds < pause + _leaving_seconds(config):
        yield "it is killed before it has drained"


def _transceiver_ports(config: Config) -> Iterator[tuple[str, tuple[str, int]]]:
    """Names of the ports that a process binds, with protocol and number."""
    yield "http", ("TCP", parse_address(config.http.bind)[1])
    yield "media", ("UDP", parse_address(config.transceiver.bind)[1])


def _relay_ports(config: Config) -> Iterator[tuple[str, tuple[str, int]]]:
    yield "http", ("TCP", parse_address(config.http.bind)[1])
    for number, plan in enumerate(plan_listeners(config.relay), start=1):
        name = "media" if plan.transport == "udp" else "media-tcp"
        yield name, (plan.transport.upper(), plan.bind[1])
        yield f"internal-{number}" if number > 1 else "internal", ("UDP", plan.internal[1])


def _leaving_seconds(config: Config) -> float:
    return config.transceiver.drain_seconds + DRAIN_GRACE_SECONDS + CANCEL_SECONDS


def _has_port(pod: Pod, name: str, protocol: str) -> bool:
    ports = [port for container in pod.spec.containers for port in container.ports]
    return any(port.name == name and port.protocol == protocol for port in ports)


def _values(value: object, key: str) -> list[str]:
    """The names under every ``key``, at any depth."""
    match value:
        case dict():
            own = value.get(key)
            found = [str(own["name"])] if isinstance(own, dict) and "name" in own else []
            return found + [name for each in value.values() for name in _values(each, key)]
        case list():
            return [name for each in value for name in _values(each, key)]
        case _:
            return []
