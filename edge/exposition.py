"""The metrics page in Prometheus's text format, 0.0.4; the only place that knows its library.

That takes long to load, so whoever serves the page does (``app.web``), and not who counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge.metric_names import FAMILIES, HISTOGRAMS
from edge.metrics import Labels, Metrics, Times


def make_page(metrics: Metrics) -> Callable[[], bytes]:
    """Make what reads every part and writes the page, with the process's own metrics."""
    registry = CollectorRegistry()
    registry.register(_Parts(metrics))
    ProcessCollector(registry=registry)
    return lambda: generate_latest(registry)


class _Parts(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for name, samples in self._metrics.read().items():
            yield _metric(name, samples)
        for name, times in self._metrics.times.items():
            yield _histogram(name, times)


def _metric(name: str, samples: Mapping[Labels, float]) -> Metric:
    family = FAMILIES[name]
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = make(name, family.help, labels=family.labels)
    for labels, value in samples.items():
        metric.add_metric(labels, value)
    return metric


def _histogram(name: str, times: Times) -> Metric:
    text, bounds = HISTOGRAMS[name]
    names = [*map(str, bounds), "+Inf"]
    buckets = list(zip(names, map(float, accumulate(times.counts)), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=times.total)
