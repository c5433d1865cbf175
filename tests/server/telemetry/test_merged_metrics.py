"""Metrics of several processes in one text."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.parser import text_string_to_metric_families

from osamd.server.telemetry.merged_metrics import merged


def text(value: float, *, with_more: bool = False) -> bytes:
    """Each kind of metric, as a process writes it."""
    # As in a server, whether or not another test has made one in this process.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    Gauge("plain", "One.", registry=registry).set(value)
    Counter("counted", "Two.", ("kind",), registry=registry).labels('a"{}\n\\').inc(value)
    Histogram("timed", "Three.", ("kind",), buckets=(1, 2), registry=registry).labels("b").observe(value)
    if with_more:
        Gauge("more", "Four.", registry=registry).set(value)
    return generate_latest(registry)


def test_each_gets_a_label_and_families_stay_whole() -> None:
    """Every sample is kept, with its own labels; each family's head is there once, before all of its samples."""
    others = {"one": text(2.0), 'odd"\\\nname': text(3.0, with_more=True)}
    found = list(text_string_to_metric_families(merged(text(1.0), others, label="own").decode()))

    assert ["plain", "counted", "timed", "more"] == [family.name for family in found]
    samples = [sample for family in found for sample in family.samples]
    values = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
    processes = [("edge", "own", text(1.0)), *(("segmenter", label, other) for label, other in others.items())]
    for name, label, own in processes:
        for family in text_string_to_metric_families(own.decode()):
            for sample in family.samples:
                labels = {**sample.labels, name: label}
                assert sample.value == values.pop((sample.name, tuple(sorted(labels.items()))))
    assert not values
