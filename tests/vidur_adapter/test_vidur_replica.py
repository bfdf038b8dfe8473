"""Vidur's scheduler beside ours. Runs where VIDUR_CHECKOUT names a checkout with its dependencies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from block.errors import ConfigError
from block.latency.base import KernelLatency
from block.latency.table import TableLatency
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.what_if import Newcomer, WhatIf
from block.types import EngineLimits
from exp.bench_state import NEWCOMER, BenchState
from vidur_adapter.vidur_checkout import VidurCheckout
from vidur_adapter.vidur_replica import VidurReplica, by_shape
from vidur_adapter.vidur_what_if import VidurWhatIf

MODEL = TableLatency.load(Path(__file__).parents[2] / "config/latency/a30-llama-2-7b.yaml")
LIMITS = EngineLimits(16, 1051, 48, 512, 4096)
KERNEL = KernelLatency((1.0, 512.0), (0.02, 0.05), 1e-6, 1e-9, 1e-6)


@pytest.fixture(scope="module")
def checkout() -> VidurCheckout:
    folder = os.environ.get("VIDUR_CHECKOUT")
    if not folder:
        pytest.skip("needs a Vidur checkout: set VIDUR_CHECKOUT to its folder")
    return VidurCheckout.load(Path(folder))


def test_one_request_alone_takes_as_long_in_both(checkout: VidurCheckout) -> None:
    request = SimulatedRequest("a", 0.5, 700, 100)
    ours = EngineSimulation(LIMITS, KERNEL, [request])
    ours.run()
    (own,) = ours.outcomes()
    (theirs,) = VidurReplica(checkout, LIMITS, by_shape(KERNEL)).replay([request])
    assert theirs.first_token_s == pytest.approx(own.first_token_s, rel=1e-9)
    assert theirs.finish_s == pytest.approx(own.finish_s, rel=1e-9)


def test_many_requests_with_room_for_all_differ_little(checkout: VidurCheckout) -> None:
    requests = [SimulatedRequest(f"r{n}", 0.4 * n, 30 + 41 * n % 700, 10 + 29 * n % 120) for n in range(60)]
    ours = EngineSimulation(LIMITS, KERNEL, requests)
    ours.run()
    theirs = VidurReplica(checkout, LIMITS, by_shape(KERNEL)).replay(requests)
    ends = [each.finish_s for each in ours.outcomes()]
    assert [each.finish_s for each in theirs] == pytest.approx(ends, rel=0.02)


def test_as_a_back_end_it_answers_nearly_as_ours(checkout: VidurCheckout) -> None:
    state = BenchState(running=20, waiting=5, tokens_left=100).build()
    ours, _ = WhatIf(state, MODEL).ask(Newcomer.certain(NEWCOMER))
    theirs, spread = VidurWhatIf(checkout, state, MODEL).ask(Newcomer.certain(NEWCOMER))
    assert theirs.e2e_s == pytest.approx(ours.e2e_s, rel=0.05)
    assert theirs.harm_sum_s > 0
    assert spread.scenarios == 1


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no Vidur checkout"):
        VidurCheckout.load(tmp_path)
