"""What is made of the outcomes behind several schedulers, on outcomes that were made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exp.bench_copies import copies_of, copies_summary, copies_table, imbalance
from exp.outcome import Outcome
from exp.workload import TraceRequest


def outcome(instance: str, sent_s: float, e2e_s: float) -> Outcome:
    return Outcome(
        TraceRequest(sent_s, 10, 10), "block", sent_s=sent_s, ttft_s=0.1, e2e_s=e2e_s, instance=instance
    )


def test_equal_shares_have_no_imbalance_and_a_herd_has_much() -> None:
    equal = [outcome(name, 0.0, 10.0) for name in "abcd"]
    assert imbalance(equal) == 0.0
    # 5 and 1 at once: a deviation of 2 from a mean of 3.
    herd = [outcome("a", 0.0, 10.0) for _ in range(5)] + [outcome("b", 0.0, 10.0)]
    assert imbalance(herd) == pytest.approx(2 / 3, rel=0.02)
    assert imbalance([]) == 0.0


def test_only_times_count_at_which_there_is_a_request_for_each() -> None:
    """The last answer's tail, with one request left, says nothing of how they were dealt out."""
    outcomes = [outcome("a", 0.0, 10.0), outcome("b", 0.0, 10.0), outcome("a", 0.0, 1000.0)]
    assert imbalance(outcomes) == pytest.approx(1 / 3, rel=0.02)


def test_what_failed_is_counted_and_not_taken_for_throughput() -> None:
    failed = Outcome(TraceRequest(0.0, 10, 10), "block", e2e_s=1.0, error="no end")
    even = [outcome("ab"[index % 2], float(index), 4.0) for index in range(21)]
    one, four = copies_of(1, [*even, failed]), copies_of(4, [*even[:-1], replace(even[-1], sent_s=1000.0)])
    assert (one.requests, one.failed, one.per_instance) == (22, 1, (11, 10))
    assert one.completed_per_s == four.completed_per_s == pytest.approx(1.0)  # whatever the last one's tail
    slower = copies_of(16, [replace(each, sent_s=1.25 * each.sent_s) for each in even])
    assert copies_summary([one, slower], 8.0)["throughput_against_first"] == [0.0, -0.2]
    assert copies_table([one, four]).row_count == 2
