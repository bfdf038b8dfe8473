"""Loads: the same seed gives the same requests, and they are as asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from block.errors import ConfigError, StateError
from exp.load import MIXES, Load, burst, capacity_per_s
from exp.run_log import RequestLog, RunHeader, RunLog

NOWHERE = Path("nowhere")
ROOM = 1024


def gaps(burstiness: float) -> np.ndarray:
    load = Load("short", 20.0, 200.0, seed=3, burstiness=burstiness)
    return np.diff([request.arrival_s for request in load.workload(ROOM, NOWHERE).requests])


@pytest.mark.parametrize("mix", MIXES)
def test_the_same_seed_gives_the_same_requests_and_all_fit(mix: str) -> None:
    load = Load(mix, 5.0, 60.0, seed=7)
    requests = load.workload(ROOM, NOWHERE).requests
    assert requests == load.workload(ROOM, NOWHERE).requests
    assert requests != Load(mix, 5.0, 60.0, seed=8).workload(ROOM, NOWHERE).requests
    assert len(requests) == 300
    assert all(r.prompt_tokens >= 1 and r.output_tokens >= 2 for r in requests)
    assert all(r.prompt_tokens + r.output_tokens < ROOM for r in requests)


def test_sharegpt_is_scaled_to_the_room() -> None:
    small, large = (Load("sharegpt", 50.0, 40.0, 1).workload(room, NOWHERE).requests for room in (512, 2048))
    means = [np.mean([request.output_tokens for request in requests]) for requests in (small, large)]
    assert means[1] / means[0] == pytest.approx(4.0, rel=0.05)


def test_arrivals_have_the_rate_and_the_burstiness_asked_for() -> None:
    for burstiness in (1.0, 0.25):
        found = gaps(burstiness)
        assert found.mean() == pytest.approx(1 / 20.0, rel=0.1)
        # A gamma distribution of shape k has a coefficient of variation of k ** -0.5.
        assert found.std() / found.mean() == pytest.approx(burstiness**-0.5, rel=0.1)


def test_an_unknown_mix_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'poems'.*sharegpt"):
        Load("poems", 1.0, 1.0, 0).workload(ROOM, NOWHERE)


def test_the_capacity_is_told_from_a_burst_without_its_end() -> None:
    header = RunHeader("real", "burst", 0.0, 1.0, 0, 0.0, 0.0)
    # Two requests of four tokens per second; the last of them lags far behind.
    starts = [0.5 * index for index in range(39)] + [60.0]
    requests = tuple(
        RequestLog(0.0, 0.0, 4, 4, tuple(start + 0.125 * n for n in range(1, 5))) for start in starts
    )
    assert capacity_per_s(RunLog(header, requests)) == pytest.approx(2.0, rel=0.02)
    with pytest.raises(StateError, match="too few"):
        capacity_per_s(RunLog(header, requests[:1]))
    assert burst("short", 12, 0).workload(ROOM, NOWHERE).requests[-1].arrival_s < 1.0
