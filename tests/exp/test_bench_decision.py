"""What the benchmark of decisions takes for usual."""

from __future__ import annotations

import pytest

from exp.bench_decision import usual_processes


@pytest.mark.parametrize(("predictors", "processes"), [(1, 1), (12, 1), (16, 1), (17, 2), (33, 3)])
def test_predictors_are_dealt_out_as_those_of_a_host_are(predictors: int, processes: int) -> None:
    assert usual_processes(predictors) == processes
