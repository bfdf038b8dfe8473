"""Metric families: exact counts, the text that Prometheus reads, and bounds on what others name."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from block.series import Counters, Histograms


def exposed(family: Counters | Histograms) -> list[str]:
    registry = CollectorRegistry()
    registry.register(family)
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_counters_count_by_labels():
    family = Counters("things", "Things.", ("colour", "size"))
    family.count(("red", "small"))
    family.count(("red", "small"), 2)
    family.count(("blue", "large"))
    assert exposed(family) == [
        'things_total{colour="red",size="small"} 3.0',
        'things_total{colour="blue",size="large"} 1.0',
    ]


def test_a_histogram_counts_up_to_and_with_each_bound():
    family = Histograms("wait_seconds", "Waits.", (1, 2), ("who",), unit="seconds", fixed={"where": "here"})
    for value in (0.5, 1, 1.5, 9):
        family.observe(value, ("me",))
    assert exposed(family) == [
        'wait_seconds_bucket{le="1.0",where="here",who="me"} 2.0',
        'wait_seconds_bucket{le="2.0",where="here",who="me"} 3.0',
        'wait_seconds_bucket{le="+Inf",where="here",who="me"} 4.0',
        'wait_seconds_count{where="here",who="me"} 4.0',
        'wait_seconds_sum{where="here",who="me"} 12.0',
    ]


def test_a_histogram_without_labels_is_there_from_the_beginning():
    assert 'quiet_bucket{le="+Inf"} 0.0' in exposed(Histograms("quiet", "Quiet.", (1,)))


def test_more_labels_than_allowed_are_counted_together():
    counters = Counters("things", "Things.", ("name",), most=3)
    histograms = Histograms("sizes", "Sizes.", (1,), ("name",), most=3)
    for number in range(50):
        counters.count((str(number),))
        histograms.observe(number, (str(number),))
    assert len(exposed(counters)) == 4
    assert 'things_total{name="other"} 47.0' in exposed(counters)
    assert 'sizes_count{name="other"} 47.0' in exposed(histograms)


def test_what_is_not_kept_is_told_no_more():
    family = Counters("things", "Things.", ("name",))
    for name in "abc":
        family.count((name,))
    family.keep(lambda key: key[0] != "b")
    assert exposed(family) == ['things_total{name="a"} 1.0', 'things_total{name="c"} 1.0']
