"""Prefix caches in a simulated cluster: engines keep them, routers know of them what routers can know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from block.errors import ConfigError
from block.latency.load import load_latency
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.types import EngineLimits
from exp.cluster.load import ClusterLoad
from exp.cluster.prefixes import DIGEST_TOKENS, digests_of
from exp.cluster.result import ClusterResult
from exp.cluster.simulation import simulate_cluster
from exp.cluster.spec import AT_ONCE, ClusterSpec, Failure, SimulatedInstance
from exp.workload import HASH_TOKENS

LATENCY = load_latency(Path(__file__).parents[3] / "config/latency/a30-llama-2-7b.yaml")
LIMITS = EngineLimits(16, 1052, 48, 512, 4096, prefix_caching=True, async_scheduling=True)
INSTANCE = SimulatedInstance(LIMITS, LATENCY)


def _conversations(turns: int, gap_s: float) -> ClusterLoad:
    """Of eight people who speak in no order; each one's prompt begins with the one before."""
    speakers = np.random.default_rng(3).permutation(np.repeat(np.arange(8), turns)).tolist()
    hashes = []
    for place, speaker in enumerate(speakers):
        turn = 1 + speakers[:place].count(speaker)
        hashes.append(tuple(1000 * speaker + block for block in range(turn)))
    prompts = np.array([HASH_TOKENS * len(one) + 90 for one in hashes], np.int64)
    arrivals_s = np.arange(len(hashes)) * gap_s
    return ClusterLoad(arrivals_s, prompts, np.full(len(hashes), 40, np.int64), block_hashes=hashes)


def _run(policy: str, load: ClusterLoad, **settings: object) -> ClusterResult:
    return simulate_cluster(ClusterSpec((INSTANCE,) * 3, policy, **settings), load)  # type: ignore[arg-type]


def test_one_instance_is_the_engine_simulation() -> None:
    """Which the scheduler of vLLM itself judges, step by step."""
    load = _conversations(5, 0.4)
    result = simulate_cluster(ClusterSpec((INSTANCE,), "round_robin", delays=AT_ONCE), load)
    blocks = HASH_TOKENS // LIMITS.block_size
    alone = EngineSimulation(
        LIMITS,
        LATENCY.kernel,
        [
            SimulatedRequest(
                f"{number:04}",
                float(load.arrival_s[number]),
                int(load.prompt_tokens[number]),
                int(load.output_tokens[number]),
                max_tokens=LIMITS.max_model_len - int(load.prompt_tokens[number]),
                block_hashes=tuple(blocks * key + part for key in hashes for part in range(blocks)),
            )
            for number, hashes in enumerate(load.block_hashes)
        ],
    )
    alone.run()
    outcomes = alone.outcomes()
    assert result.column("hit_tokens").tolist() == [one.hit_tokens for one in outcomes]
    np.testing.assert_array_equal(
        result.column("ttft_s"), [one.first_token_s for one in outcomes] - load.arrival_s
    )
    assert result.summary["hit_rate"] == pytest.approx(
        sum(one.hit_tokens for one in outcomes) / load.prompt_tokens.sum()
    )


def test_policies_that_see_prefixes_find_more_of_them() -> None:
    load = _conversations(7, 0.35)
    rates = {
        policy: _run(policy, load).hit_rate or 0.0
        for policy in ("random", "prefix_affinity", "lmetric", "block")
    }
    for policy in ("prefix_affinity", "lmetric", "block"):
        assert rates[policy] > 1.2 * rates["random"]


def test_what_routers_know_of_caches_is_what_block_goes_by() -> None:
    load = _conversations(7, 0.35)
    hits = {name: _run("block", load, prefixes=name).hit_rate or 0.0 for name in ("none", "record", "exact")}
    assert hits["record"] > 1.2 * hits["none"]
    assert hits["exact"] > 1.2 * hits["none"]
    with pytest.raises(ConfigError, match="prefixes = 'guessed': unknown"):
        _run("block", load, prefixes="guessed")


def test_a_prediction_counts_on_what_is_cached() -> None:
    load = _conversations(3, 30.0)
    result = _run("block", load)
    assert result.column("predicted_ttft_s") == pytest.approx(result.column("ttft_s"), rel=0.05)
    blind = _run("block", load, prefixes="none")
    assert (blind.column("predicted_ttft_s") > 1.2 * blind.column("ttft_s")).any()


def test_without_prefix_caching_nothing_is_found() -> None:
    load = _conversations(3, 0.5)
    plain = SimulatedInstance(replace(LIMITS, prefix_caching=False), LATENCY)
    result = simulate_cluster(ClusterSpec((plain,) * 2, "prefix_affinity"), load)
    assert result.summary["hit_rate"] == 0.0


def test_an_instance_that_fails_comes_back_with_an_empty_cache() -> None:
    count = 30
    load = ClusterLoad(
        np.arange(count) * 1.0,
        np.full(count, 1114, np.int64),
        np.full(count, 40, np.int64),
        block_hashes=[(7, 8)] * count,
    )
    kept = simulate_cluster(ClusterSpec((INSTANCE,), "round_robin"), load)
    failure = Failure(0, 23.9, back_s=23.95)
    lost = simulate_cluster(ClusterSpec((INSTANCE,), "round_robin", failures=(failure,)), load)
    assert kept.requests["hit_tokens"].to_numpy()[24] == 2 * HASH_TOKENS
    assert lost.requests["hit_tokens"].to_numpy()[24:].tolist() == [0, *[2 * HASH_TOKENS] * 5]


def test_digests_are_equal_as_far_as_prompts_are() -> None:
    one, other = digests_of((1, 2, 3), 2000), digests_of((1, 2, 4), 2000)
    parts = HASH_TOKENS // DIGEST_TOKENS
    assert len(one) == len(other) == 3 * parts
    assert one[: 2 * parts] == other[: 2 * parts]
    assert not set(one[2 * parts :]) & set(other)
    assert digests_of((1, 2, 3), DIGEST_TOKENS + 1) == one[:1]
    assert digests_of((1, 2, 3), DIGEST_TOKENS) == digests_of((), 900) == ()
