"""Check what deploys an edge, without a cluster and without Docker; see scripts/check_deploy.

Every variant of the chart is linted and rendered by Helm's own library, kustomize by kubectl; all
of it is validated against Kubernetes' schemas and held against the code
(tests/support/manifest_rules).
What lies in deploy/kustomize is the chart, rendered: one source, two ways to use it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

import click
import msgspec
import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.manifest_rules import problems  # noqa: E402
from tests.support.manifests import read_manifests  # noqa: E402

CHART: Final = ROOT / "deploy" / "helm" / "edge"
KUSTOMIZE: Final = ROOT / "deploy" / "kustomize"
BIN: Final = Path(sys.executable).parent
VERSIONS: Final = ("1.30", "1.37")
"""Of Kubernetes: the oldest that the chart is for, and the newest that has a schema here."""
UNKNOWN_KINDS: Final = ("ServiceMonitor", "PrometheusRule")
"""Custom resources, whose schemas are not here."""

EXTERNAL: Final = {"secrets": {"existingSecret": "edge"}, "relay": {"advertise": "192.0.2.1"}}
"""For plain manifests: a Secret made by hand, and an address that an overlay gives."""
NODES: Final = {
    "secrets": {"existingSecret": "edge"},
    "relay": {"kind": "DaemonSet", "nodeSelector": {"edge/relay": "true"}},
    "transceiver": {"autoscaling": {"enabled": True}},
    "networkPolicy": {"nodeCidrs": ["10.0.0.0/16"]},
    "monitoring": {"serviceMonitor": {"enabled": True}},
}
RENDERED: Final[dict[str, tuple[dict[str, object], tuple[str, ...]]]] = {
    "base": (
        dict(EXTERNAL),
        ("serviceaccount", "transceiver", "signaling", "redis", "disruption"),
    ),
    "components/relay-loadbalancer": (dict(EXTERNAL), ("relay", "networkpolicy")),
    "components/relay-nodes": (dict(NODES), ("relay", "networkpolicy")),
    "components/autoscaling": (dict(NODES), ("autoscaling",)),
    "components/monitoring": (dict(NODES), ("servicemonitor",)),
}
"""Folders of kustomize: the values, and the templates that are taken from them."""

NOTE: Final = "# Rendered from deploy/helm/edge by `scripts/check_deploy --write`: do not edit.\n"


class Finding(msgspec.Struct):
    """What Helm says about a chart."""

    severity: int
    path: str
    error: str


class LintReport(msgspec.Struct):
    """All of it."""

    messages: list[Finding] = []
    errors: list[str] = []


@click.command()
@click.option("--write", is_flag=True, help="Render deploy/kustomize from the chart.")
@click.option("--image", is_flag=True, help="Also take the image's steps in a plain venv.")
def main(write: bool, image: bool) -> None:
    """Check the Dockerfile, the chart, kustomize and compose.yaml."""
    if write:
        for path, text in rendered_folders():
            path.write_text(text)
    run("hadolint", "Dockerfile")
    done("Dockerfile linted")
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    done("compose.yaml fits the Compose specification")
    for values in sorted((CHART / "ci").glob("*.yaml")):
        check_chart(values)
    stale = [path.name for path, text in rendered_folders() if path.read_text() != text]
    if stale:
        fail(
            f"deploy/kustomize is not the chart ({', '.join(stale)}): scripts/check_deploy --write"
        )
    for overlay in sorted((KUSTOMIZE / "overlays").iterdir()):
        check_manifests(run("kubectl", "kustomize", str(overlay)), f"overlay {overlay.name}")
    if image:
        check_image_steps()


def check_chart(values: Path) -> None:
    """Lint and render the chart with one file of values, and check what comes out."""
    settings = yaml.safe_load(values.read_text())
    report = msgspec.convert(import_module("helm_python").lint(str(CHART), settings), LintReport)
    found = [f"{each.path}: {each.error}" for each in report.messages if each.severity > 1]
    if found or report.errors:
        fail("\n".join([*found, *report.errors]))
    check_manifests("\n---\n".join(render(settings).values()), f"chart, {values.name}")


def render(values: dict[str, object]) -> dict[str, str]:
    """Render the chart as release ``edge``, by the names of its templates."""
    with import_module("helm_python").Chart.load(str(CHART)) as chart:
        texts: dict[str, str] = chart.render(values=values, name="edge", namespace="edge")
    return {Path(name).stem: text for name, text in texts.items() if text.strip()}


def rendered_folders() -> Iterator[tuple[Path, str]]:
    """Every file of kustomize that is the chart's, as it has to be."""
    for folder, (values, templates) in RENDERED.items():
        texts = render(values)
        for name in templates:
            text = "\n".join(
                line.rstrip() for line in texts[name].strip().splitlines() if line.strip()
            )
            yield KUSTOMIZE / folder / f"{name}.yaml", f"{NOTE}{text}\n"


def check_manifests(text: str, title: str) -> None:
    """Validate against the schemas, and against each other and the code."""
    manifests = read_manifests([text])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "manifests.yaml"
        file.write_text(_without_unknown(text))
        for version in VERSIONS:
            run("kubernetes-validate", "--strict", "--no-warn", "-k", version, str(file))
        found = list(problems(manifests, Path(folder)))
    scaled = {m.metadata.name for m in manifests if m.kind == "HorizontalPodAutoscaler"}
    found += [f"{m.title}: has replicas and an autoscaler" for m in manifests
              if m.metadata.name in scaled and "replicas" in m.spec]  # fmt: skip
    if found:
        fail("\n".join([title, *found]))
    done(f"{title}: {len(manifests)} manifests, Kubernetes {' and '.join(VERSIONS)}")


def _without_unknown(text: str) -> str:
    documents = [document for document in yaml.safe_load_all(text) if document]
    return yaml.safe_dump_all(d for d in documents if d["kind"] not in UNKNOWN_KINDS)


def check_image_steps() -> None:
    """Take the steps of the Dockerfile in a venv: wheels first, then without a compiler."""
    with tempfile.TemporaryDirectory() as folder:
        wheels, venv = f"{folder}/wheels", Path(folder) / "venv"
        pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
        run("python", *pip, "wheel", "--wheel-dir", wheels, ".[audio]")
        run("python", "-m", "venv", str(venv))
        run(str(venv / "bin" / "python"), *pip, "install", "--no-index", "--find-links", wheels,
            "edge[audio]", env={"PATH": "/nowhere", "CC": "/nowhere/cc"})  # fmt: skip
        engines = "import edge.forwarder._native, edge.offload._native"
        opus = "from edge.audio.opus_library import version; version()"
        run(str(venv / "bin" / "python"), "-c", f"{engines}; {opus}", cwd=folder)
        run(str(venv / "bin" / "edge"), "--version", cwd=folder)
    done("the image's steps work without a compiler")


def run(
    program: str, *arguments: str, env: dict[str, str] | None = None, cwd: str | Path = ROOT
) -> str:
    """Run a program of the venv, or fail with what it says; gives its stdout."""
    command = [program if "/" in program else str(BIN / program), *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}
    )
    if result.returncode:
        fail(f"{program} {' '.join(arguments)}\n{result.stdout}{result.stderr}")
    return result.stdout


def done(what: str) -> None:
    """Say what is in order."""
    click.echo(f"ok      {what}")


def fail(what: str) -> None:
    """Say what is not, and end."""
    click.echo(f"FAILED  {what}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
