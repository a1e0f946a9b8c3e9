"""The dashboard and the alert rules ask for metrics that there are, in ways that make sense."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import yaml

from edge.errors import Drop
from edge.exposition import make_page
from edge.metric_names import FAMILIES, HISTOGRAMS
from edge.metrics import Part
from tests.support.full_metrics import full_metrics
from tests.support.promql import Catalogue, Checker, read_catalogue

DEPLOY = Path(__file__).parents[1] / "deploy"
UNSHOWN: dict[str, str] = {}
"""Metrics of ours that no panel shows, with the reason."""


class Target(msgspec.Struct):
    """One query of a panel."""

    expr: str
    legendFormat: str
    datasource: dict[str, str]


class Grid(msgspec.Struct, frozen=True):
    """Where a panel is."""

    x: int
    y: int
    w: int
    h: int


class Panel(msgspec.Struct):
    """A panel, or a row's head."""

    id: int
    type: str
    title: str
    gridPos: Grid
    description: str = ""
    targets: list[Target] = []


class Variable(msgspec.Struct):
    """A choice at the head of the dashboard."""

    name: str
    type: str
    definition: str = ""


class Templating(msgspec.Struct):
    """All of them."""

    variables: list[Variable] = msgspec.field(name="list")


class Dashboard(msgspec.Struct):
    """What is read of a dashboard."""

    uid: str
    title: str
    panels: list[Panel]
    templating: Templating


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """An alert rule."""

    alert: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]
    for_: str = msgspec.field(default="0s", name="for")


class RuleGroup(msgspec.Struct, forbid_unknown_fields=True):
    """Rules that are evaluated together."""

    name: str
    rules: list[Rule]


class RuleFile(msgspec.Struct, forbid_unknown_fields=True):
    """A file of rules."""

    groups: list[RuleGroup]


def catalogue() -> Catalogue:
    """Everything that an edge can ever say of itself."""
    metrics = full_metrics()
    for part in get_args(Part):
        metrics.add_drops(part, lambda: dict.fromkeys(Drop, 1))
    return read_catalogue(make_page(metrics)())


CATALOGUE = catalogue()
DASHBOARD = msgspec.json.decode((DEPLOY / "grafana" / "edge.json").read_bytes(), type=Dashboard)
RULES = msgspec.convert(
    yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text()), RuleFile
)
TARGETS = [
    pytest.param(target, id=f"{panel.title} {number}")
    for panel in DASHBOARD.panels
    for number, target in enumerate(panel.targets)
]
ALERTS = [pytest.param(rule, id=rule.alert) for group in RULES.groups for rule in group.rules]


def plain(expression: str) -> str:
    """Put in what Grafana puts in."""
    return expression.replace("$__rate_interval", "1m")


@pytest.mark.parametrize("target", TARGETS)
def test_every_query_makes_sense(target: Target) -> None:
    labels = Checker(CATALOGUE).check(plain(target.expr))
    named = set(re.findall(r"\{\{(\w+)\}\}", target.legendFormat))
    assert named | {"job"} == labels | {"job"}, "the legend names what tells the lines apart"


@pytest.mark.parametrize("target", TARGETS)
def test_every_query_is_of_the_chosen_processes(target: Target) -> None:
    selectors = re.findall(r"\w+\{[^}]*\}", target.expr)
    assert selectors
    for selector in selectors:
        assert 'job=~"$job",instance=~"$instance"' in selector
    assert "$" not in re.sub(r"\$(job|instance|__rate_interval)\b", "", target.expr)
    assert target.datasource == {"type": "prometheus", "uid": "${datasource}"}


def test_every_metric_is_shown() -> None:
    checker = Checker(CATALOGUE)
    for panel in DASHBOARD.panels:
        for target in panel.targets:
            checker.check(plain(target.expr))
    ours = FAMILIES.keys() | HISTOGRAMS.keys()
    assert ours - checker.families == UNSHOWN.keys()


def test_the_choices_are_made_of_metrics() -> None:
    variables = {each.name: each for each in DASHBOARD.templating.variables}
    assert list(variables) == ["datasource", "job", "instance"]
    assert variables["datasource"].type == "datasource"
    for name in ("job", "instance"):
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variables[name].definition)
        assert found is not None
        assert found[2] in Checker(CATALOGUE).check(found[1])


def test_panels_have_places_and_words_of_their_own() -> None:
    panels = DASHBOARD.panels
    assert len({panel.id for panel in panels}) == len(panels)
    assert [panel.title for panel in panels if panel.type == "row"] == [
        "Relays", "Transceivers", "Backends", "Registry", "HTTP", "Processes",
    ]  # fmt: skip
    taken = [cell for panel in panels for cell in _cells(panel.gridPos)]
    assert len(set(taken)) == len(taken)
    assert all(panel.description.endswith(".") for panel in panels if panel.type != "row")


def _cells(grid: Grid) -> Iterator[tuple[int, int]]:
    assert grid.x + grid.w <= 24
    for x in range(grid.x, grid.x + grid.w):
        for y in range(grid.y, grid.y + grid.h):
            yield x, y


@pytest.mark.parametrize("rule", ALERTS)
def test_every_alert_makes_sense(rule: Rule) -> None:
    labels = Checker(CATALOGUE).check(rule.expr)
    assert rule.labels["severity"] in ("critical", "warning")
    assert rule.annotations.keys() == {"summary", "description"}
    named = set(re.findall(r"\$labels\.(\w+)", "".join(rule.annotations.values())))
    assert named <= labels
    assert re.search(r"[<>=]", rule.expr), "an alert compares"


def test_the_scrape_configuration_names_the_job_of_the_alerts() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    assert config["rule_files"] == ["alerts.yml"]
    assert {job for rule in _rules() for job in re.findall(r'job="(\w+)"', rule.expr)} == jobs


def _rules() -> list[Rule]:
    return [rule for group in RULES.groups for rule in group.rules]


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("rate(edge_session[1m])", "there is no metric edge_session"),
        ("edge_sessions{relay='x'}", "edge_sessions has no label relay"),
        ("edge_relay_flows{state='dead'}", "state of edge_relay_flows is never dead"),
        ("edge_relay_flows{state=~'dead|gone'}", "state of edge_relay_flows is never dead|gone"),
        ("rate(edge_sessions[1m])", "edge_sessions is not for a rate"),
        ("sum(edge_sessions_opened_total)", "edge_sessions_opened_total needs a rate"),
        ("sum by (reason) (edge_sessions)", "has no {'reason'}"),
        ("sum by (job) (edge_sessions) / sum by (instance) (edge_sessions)", "never match"),
        ("histogram_quantile(0.5, sum(rate(edge_setup_seconds_bucket[1m])))", "without le"),
        ("sum(", "unclosed left parenthesis"),
        ("rate(edge_sessions)", "expected type matrix"),
    ],
)
def test_the_checker_finds(expression: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        Checker(CATALOGUE).check(expression)
