"""What is read of Kubernetes manifests; whether they fit is in ``manifest_rules``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import yaml

T = TypeVar("T")
Labels = dict[str, str]
SECRETS: Final = {"secret": "s" * 32, "previous-secret": "", "api-keys": "k" * 32}
"""The files of our Secret, as long as they must be."""
WORKLOADS: Final = ("Deployment", "DaemonSet")
LOADER: Final[type[yaml.SafeLoader | yaml.CSafeLoader]] = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)
"""The one of libyaml, where PyYAML was built with it, takes a tenth of the time."""


class _Camel(msgspec.Struct, rename="camel"):
    """Kubernetes writes camelCase."""


class Metadata(_Camel):
    name: str = ""
    labels: Labels = {}


class Manifest(_Camel):
    kind: str
    metadata: Metadata
    spec: dict[str, object] = {}

    @property
    def title(self) -> str:
        return f"{self.kind} {self.metadata.name}"

    def read(self, kind: type[T]) -> T:
        """Its spec, as far as ``kind`` tells."""
        return msgspec.convert(self.spec, kind)


class Selector(_Camel):
    match_labels: Labels = {}

    def fits(self, labels: Labels) -> bool:
        return self.match_labels.items() <= labels.items()


class Port(_Camel):
    container_port: int
    name: str
    protocol: str


class Variable(_Camel):
    name: str
    value: str | None = None


class HttpGet(_Camel):
    path: str
    port: str


class Probe(_Camel):
    http_get: HttpGet | None = None


class Sleep(_Camel):
    seconds: int


class Handler(_Camel):
    sleep: Sleep


class Lifecycle(_Camel):
    pre_stop: Handler


class ContainerSecurity(_Camel):
    allow_privilege_escalation: bool
    read_only_root_filesystem: bool
    capabilities: dict[str, list[str]]


class Container(_Camel):
    name: str
    args: list[str]
    security_context: ContainerSecurity
    readiness_probe: Probe
    liveness_probe: Probe
    ports: list[Port] = []
    env: list[Variable] = []
    lifecycle: Lifecycle | None = None


class PodSecurity(_Camel):
    run_as_non_root: bool
    run_as_user: int


class PodSpec(_Camel):
    containers: list[Container]
    security_context: PodSecurity
    automount_service_account_token: bool
    termination_grace_period_seconds: int = 30
    host_network: bool = False


class Pod(_Camel):
    metadata: Metadata
    spec: PodSpec


class RollingUpdate(msgspec.Struct, frozen=True, rename="camel"):
    max_surge: int | str = "25%"
    max_unavailable: int | str = "25%"


class Strategy(msgspec.Struct, frozen=True, rename="camel"):
    type: str = "RollingUpdate"
    rolling_update: RollingUpdate = RollingUpdate()


class Workload(_Camel):
    selector: Selector
    template: Pod
    replicas: int | None = None
    strategy: Strategy = Strategy()


class ServicePort(_Camel):
    name: str
    port: int
    target_port: str
    protocol: str


class Service(_Camel):
    selector: Labels
    ports: list[ServicePort]
    external_traffic_policy: str = "Cluster"
    type: str = "ClusterIP"


class Peer(_Camel):
    pod_selector: Selector | None = None
    namespace_selector: Selector | None = None


class PolicyPort(_Camel):
    port: str
    protocol: str


class Rule(_Camel):
    ports: list[PolicyPort]
    from_: list[Peer] | None = msgspec.field(name="from", default=None)


class Policy(_Camel):
    pod_selector: Selector
    ingress: list[Rule]


class Selecting(_Camel):
    selector: Selector


def read_manifests(texts: Iterable[str]) -> list[Manifest]:
    """Every document of some YAML."""
    documents = (document for text in texts for document in yaml.load_all(text, LOADER))
    return [msgspec.convert(document, Manifest) for document in documents if document]


def read_folders(*folders: Path) -> list[Manifest]:
    """Every manifest of some folders of kustomize."""
    files = (file for folder in folders for file in sorted(folder.glob("*.yaml")))
    return read_manifests(f.read_text() for f in files if f.name != "kustomization.yaml")


def pods_of(manifests: Sequence[Manifest]) -> dict[str, Pod]:
    """The pods of all workloads, by their first container's name."""
    pods = [m.read(Workload).template for m in manifests if m.kind in WORKLOADS]
    return {pod.spec.containers[0].name: pod for pod in pods}


def environment(container: Container, folder: Path, address: str) -> dict[str, str]:
    """What a container at ``address`` gets; the files of its Secret are in ``folder``."""
    for name, content in SECRETS.items():
        (folder / name).write_text(content)
    values = {v.name: v.value for v in container.env if v.value is not None}
    values.setdefault("EDGE_REGISTRY_URL", "redis://of-a-secret:6379/0")
    return {
        name: value.replace("$(POD_IP)", address).replace("/etc/edge/secrets", str(folder))
        for name, value in values.items()
    }
