"""How many instances are carried, judged from crowds that were made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from block.errors import ConfigError
from exp.bench import instances
from exp.bench_instances import Crowd, carried, crowd_summary

ONE = Crowd(1, 0.1, 0.030, 0.031, 400.0, 0, 0.3, 0.1, 0.001)


def crowd(count: int, tpot_s: float, failed: int = 0) -> Crowd:
    return replace(ONE, instances=count, tpot_mean_s=tpot_s, failed=failed)


def test_instances_are_carried_up_to_the_first_crowd_that_is_slow_or_fails() -> None:
    assert carried([ONE]) == 1
    assert carried([ONE, crowd(2, 0.0305), crowd(4, 0.035), crowd(6, 0.0301)]) == 2
    assert carried([ONE, crowd(2, 0.0301), crowd(4, 0.0301, failed=1)]) == 2
    assert crowd_summary([ONE, crowd(2, 0.0305)], 4.0)["carried"] == 2


@pytest.mark.parametrize("counts", ["", "4,2", "0,1", "one", "2,2"])
def test_counts_that_do_not_rise_are_refused(counts: str) -> None:
    with pytest.raises(ConfigError, match="--counts"):
        instances(counts=counts)
