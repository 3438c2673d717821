"""Counted rows in Prometheus' own objects."""

from __future__ import annotations

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from narthex.gateway.watch.counts import Rows, Spread
from narthex.gateway.watch.figures import Figure


def family(figure: Figure, rows: Rows[float]) -> CounterMetricFamily | GaugeMetricFamily:
    """A counter or a gauge with all its label values."""
    made = (CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily)(
        figure.name, figure.help, labels=figure.labels
    )
    for labels, value in rows.items():
        made.add_metric(labels, value)
    return made


def histogram(figure: Figure, rows: Rows[Spread]) -> HistogramMetricFamily:
    """A histogram with all its label values."""
    made = HistogramMetricFamily(figure.name, figure.help, labels=figure.labels)
    for labels, spread in rows.items():
        made.add_metric(labels, spread.buckets(), spread.total)
    return made
