"""What an outlook draws: as much load as was seen, and no more by chance."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from block.latency.load import load_latency
from block.types import EngineLimits, EngineLoad
from global_scheduler.provisioning.base import ArrivalProcess, EngineModel, InstanceSeen, Observation
from global_scheduler.provisioning.outlook import NONE_MISS, Horizon, Objective, Outlook

ENGINE = EngineModel(
    EngineLimits(16, 1052, 48, 512, 4096, async_scheduling=True),
    load_latency(Path(__file__).parents[3] / "config/latency/a30-llama-2-7b.yaml"),
)
SIZES = tuple((10 * number + 1, number + 1) for number in range(100))
IDLE = InstanceSeen("i", EngineLoad(0, 0, 0, 1052, 1052, 0, 0))


def _outlook(arrivals: ArrivalProcess, horizon: Horizon, headroom: float = 0.0) -> Outlook:
    return Outlook.of(
        Observation(0.0, (), sizes=SIZES), arrivals, ENGINE, Objective(3.0, math.inf), horizon, headroom
    )


@pytest.mark.parametrize("dispersion", [1.0, 8.0])
def test_as_many_arrive_as_are_expected_and_each_size_as_often_as_any_other(dispersion: float) -> None:
    outlook = _outlook(ArrivalProcess(20.0, 0.0, dispersion), Horizon(60.0, 10.0))
    assert len(outlook.arrival_s) == 1200
    assert set(Counter(outlook.sizes).values()) == {12}
    assert 0 < outlook.arrival_s.min() <= outlook.arrival_s.max() < 60.0
    gaps_s = np.diff(outlook.arrival_s)
    assert np.var(gaps_s) / np.mean(gaps_s) ** 2 == pytest.approx(dispersion, rel=0.25)


def test_growth_and_headroom_add_load_and_a_fall_takes_none_away() -> None:
    assert len(_outlook(ArrivalProcess(20.0, 5.0), Horizon(60.0, 10.0), 0.2).sizes) == 1800
    assert len(_outlook(ArrivalProcess(20.0, -5.0), Horizon(60.0, 10.0)).sizes) == 1200


def test_a_fast_load_is_looked_at_for_a_shorter_time_but_beyond_where_it_is_judged_from() -> None:
    assert Horizon(180.0, 60.0).at(10.0) == 180.0
    assert Horizon(180.0, 60.0).at(200.0) == 100.0
    assert Horizon(180.0, 60.0).at(1000.0) == 62.0


def test_where_nobody_serves_all_miss_whatever_the_objective_leaves_open() -> None:
    outlook = _outlook(ArrivalProcess(5.0), Horizon(20.0, 5.0))
    nobody = outlook.misses((), (), 5.0)
    assert (nobody.share, nobody.late_s) == (1.0, math.inf)
    assert outlook.misses((IDLE, IDLE), (), 5.0) == NONE_MISS
    assert 0.0 < outlook.misses((), (10.0,), 5.0).share < 1.0
