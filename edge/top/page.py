"""One reading of a process's ``/metrics``, and what two readings say together.

A counter alone says little: rates and percentiles are of the time between two pages of the same
process. A page whose ``process_start_time_seconds`` is another one comes from another process, and
a counter that went down was counted by one; neither makes a rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Final, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

MAX_SAMPLES: Final = 5_000
"""Of one page; an edge writes some 200."""
START: Final = "process_start_time_seconds"

Labels: TypeAlias = tuple[tuple[str, str], ...]


class BadPage(Exception):
    """What came is no page of metrics."""


@dataclass(frozen=True, slots=True)
class Page:
    """The samples of one scrape; ``at`` is on the reader's monotonic clock, in seconds."""

    at: float
    samples: Mapping[str, Mapping[Labels, float]]

    def has(self, name: str) -> bool:
        """Whether the process has such a part."""
        return name in self.samples

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's samples with these labels; None when there are none."""
        wanted = set(labels.items())
        found = [value for has, value in self.samples.get(name, {}).items() if wanted.issubset(has)]
        return sum(found) if found else None

    def buckets(self, name: str) -> dict[float, float]:
        """A histogram's cumulated counts by their upper bounds."""
        samples = self.samples.get(f"{name}_bucket", {})
        return {float(dict(labels)["le"]): count for labels, count in samples.items()}


def parse_page(body: bytes, *, at: float) -> Page:
    """Read the text format 0.0.4. Raises BadPage."""
    samples: dict[str, dict[Labels, float]] = {}
    try:
        for number, sample in enumerate(_samples(body.decode())):
            if number >= MAX_SAMPLES or not (isfinite(sample[2])):
                raise BadPage("more than a page of metrics")
            samples.setdefault(sample[0], {})[sample[1]] = sample[2]
    except BadPage:
        raise
    except Exception as error:  # the parser promises nothing on what is none of its format
        raise BadPage("not a page of metrics") from error
    return Page(at, samples)


def _samples(text: str) -> Iterable[tuple[str, Labels, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, tuple(sorted(sample.labels.items())), sample.value


@dataclass(frozen=True, slots=True)
class Change:
    """Two pages of one process, the older first."""

    old: Page
    new: Page

    @property
    def seconds(self) -> float:
        """The time between them; 0 where they do not belong together."""
        same = self.old.value(START) == self.new.value(START)
        return self.new.at - self.old.at if same else 0.0

    def rate(self, name: str, **labels: str) -> float | None:
        """How fast a counter grows, per second; one that is not there yet is 0."""
        new = self.new.value(name, **labels)
        grown = (new or 0.0) - (self.old.value(name, **labels) or 0.0)
        if new is None or self.seconds <= 0 or grown < 0:
            return None
        return grown / self.seconds

    def since_start(self) -> Change:
        """All that the process has ever counted; its rates mean nothing."""
        born = {START: self.new.samples.get(START, {})}
        return Change(Page(-inf, born), self.new)

    def rates(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The rates above 0, by the values of a label."""
        values = {dict(each).get(label, "") for each in self.new.samples.get(name, {})}
        rates = {value: self.rate(name, **{label: value}, **labels) for value in sorted(values)}
        return {value: rate for value, rate in rates.items() if rate}

    def quantiles(self, name: str, *quantiles: float) -> tuple[float, ...] | None:
        """Quantiles of what a histogram observed in between; None when that is nothing."""
        new, old = self.new.buckets(name), self.old.buckets(name)
        if self.seconds <= 0:
            return None
        grown = {bound: count - old.get(bound, 0.0) for bound, count in sorted(new.items())}
        if not grown or grown.get(inf, 0.0) <= 0:
            return None
        return tuple(_quantile(grown, each) for each in quantiles)


def _quantile(buckets: Mapping[float, float], quantile: float) -> float:
    """As Prometheus: linear inside of a bucket; what is over the last bound counts as that."""
    rank = quantile * buckets[inf]
    low, below = 0.0, 0.0
    for bound, count in buckets.items():
        if count >= rank:
            if bound == inf:
                break
            return low + (bound - low) * (rank - below) / max(count - below, 1e-9)
        low, below = bound, count
    return low
