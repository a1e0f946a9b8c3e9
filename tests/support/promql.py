"""Checks PromQL against the metrics that there are: names, labels, their values, and kinds.

The parser is Prometheus' own grammar (promql-parser); what it can not know is checked here: that a
counter is only ever looked at through ``rate`` or ``increase`` and nothing else is, that a label is
one of its metric and may have the value asked for, and which labels the result has.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import promql_parser as promql
from prometheus_client.parser import text_string_to_metric_families

SCRAPED: Final = frozenset({"job", "instance"})
"""Labels that Prometheus adds."""
RATES: Final = frozenset({"rate", "increase", "irate"})
SET_OPERATORS: Final = frozenset({"or", "and", "unless"})


@dataclass
class Series:
    """One name: whether it only grows, and its labels with their values."""

    family: str
    counts: bool
    labels: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


Catalogue = Mapping[str, Series]


def read_catalogue(page: bytes) -> Catalogue:
    """Read every series of a page of metrics; that of ``up`` is Prometheus' own."""
    catalogue = {"up": Series("up", counts=False)}
    for family in text_string_to_metric_families(page.decode()):
        counts = family.type in ("counter", "histogram")
        name = f"{family.name}_total" if family.type == "counter" else family.name
        for sample in family.samples:
            series = catalogue.setdefault(sample.name, Series(name, counts))
            for label, value in sample.labels.items():
                series.labels[label].add(value)
    return catalogue


class Checker:
    """Checks expressions; ``families`` collects the metrics that they use."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self.families: set[str] = set()

    def check(self, expression: str) -> frozenset[str]:
        """Return the labels of the result. Raises ValueError with what is wrong."""
        return self._labels(promql.parse(expression))

    def _labels(self, node: object) -> frozenset[str]:
        match node:
            case promql.NumberLiteral():
                return frozenset()
            case promql.ParenExpr():
                return self._labels(node.expr)
            case promql.VectorSelector():
                return self._select(node, counts=False)
            case promql.AggregateExpr():
                return self._aggregate(node)
            case promql.BinaryExpr():
                return self._combine(node)
            case promql.Call():
                return self._call(node)
            case _:
                raise ValueError(f"{type(node).__name__} is not looked into: teach the checker")

    def _select(self, node: promql.VectorSelector, *, counts: bool) -> frozenset[str]:
        series = self._catalogue.get(node.name or "")
        if series is None:
            raise ValueError(f"there is no metric {node.name}")
        if series.counts is not counts:
            raise ValueError(f"{node.name} {'needs' if series.counts else 'is not for'} a rate")
        self.families.add(series.family)
        for matcher in node.matchers.matchers:
            _match(matcher, series)
        return SCRAPED | frozenset(series.labels)

    def _aggregate(self, node: promql.AggregateExpr) -> frozenset[str]:
        inner = self._labels(node.expr)
        if node.modifier is None:
            return frozenset()
        labels = frozenset(node.modifier.labels)
        if not labels <= inner:
            raise ValueError(f"{node.expr} has no {set(labels - inner)}")
        by = node.modifier.type == promql.AggModifierType.By
        return labels if by else inner - labels

    def _combine(self, node: promql.BinaryExpr) -> frozenset[str]:
        left, right = self._labels(node.lhs), self._labels(node.rhs)
        scalars = isinstance(node.lhs, promql.NumberLiteral | promql.Call) and not left
        scalars = scalars or (isinstance(node.rhs, promql.NumberLiteral) and not right)
        if left != right and not scalars:
            raise ValueError(f"{set(left)} and {set(right)} never match")
        return left | right

    def _call(self, node: promql.Call) -> frozenset[str]:
        name, arguments = node.func.name, node.args
        if name in RATES:
            return self._select(arguments[0].vector_selector, counts=True)
        inner = [self._labels(each) for each in arguments]
        if name == "histogram_quantile":
            if "le" not in inner[1]:
                raise ValueError("histogram_quantile without le")
            return inner[1] - {"le"}
        if name == "time":
            return frozenset()
        raise ValueError(f"{name}() is not looked into: teach the checker")


def _match(matcher: promql.Matcher, series: Series) -> None:
    if matcher.name in SCRAPED:
        return
    values = series.labels.get(matcher.name)
    if values is None:
        raise ValueError(f"{series.family} has no label {matcher.name}")
    if matcher.op == promql.MatchOp.Equal and matcher.value not in values:
        raise ValueError(f"{matcher.name} of {series.family} is never {matcher.value}")
    if matcher.op == promql.MatchOp.Re and not _any(matcher.value, values):
        raise ValueError(f"{matcher.name} of {series.family} is never {matcher.value}")


def _any(pattern: str, values: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, value) for value in values)
