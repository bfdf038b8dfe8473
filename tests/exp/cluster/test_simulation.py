"""The cluster simulation: deterministic, nothing lost, and choices that use what they are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from block.errors import ConfigError, StateError
from block.latency.load import load_latency
from block.provisioning_config import ProvisioningSettings
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.types import EngineLimits
from exp.cluster.estimates import EstimateSpec, estimate_lengths
from exp.cluster.load import ClusterLoad
from exp.cluster.result import ClusterResult
from exp.cluster.simulation import simulate_cluster
from exp.cluster.spec import AT_ONCE, ClusterSpec, Delays, Failure, SimulatedInstance
from global_scheduler.policies import POLICIES

LATENCY = load_latency(Path(__file__).parents[3] / "config/latency/a30-llama-2-7b.yaml")
LIMITS = EngineLimits(16, 1052, 48, 512, 4096, async_scheduling=True)
INSTANCE = SimulatedInstance(LIMITS, LATENCY)


def _load(count: int, rate_per_s: float, seed: int = 0, kind: str = "oracle") -> ClusterLoad:
    random = np.random.default_rng(seed)
    prompt = random.integers(10, 900, count)
    output = random.integers(1, 500, count)
    estimate = estimate_lengths(EstimateSpec(kind, 0.5, seed=seed), prompt, output)
    return ClusterLoad(np.cumsum(random.exponential(1 / rate_per_s, count)), prompt, output, estimate)


def _bytes(result: ClusterResult) -> bytes:
    columns = [result.requests[name].to_numpy(zero_copy_only=False) for name in result.requests.column_names]
    return b"".join(
        np.asarray(values, "U" if values.dtype == object else None).tobytes()
        for values in (*columns, *result.series.values())
    )


def test_one_instance_is_the_engine_simulation() -> None:
    load = _load(150, 2.0)
    result = simulate_cluster(ClusterSpec((INSTANCE,), "round_robin", delays=AT_ONCE), load)
    columns = zip(
        load.arrival_s.tolist(), load.prompt_tokens.tolist(), load.output_tokens.tolist(), strict=True
    )
    alone = EngineSimulation(
        LIMITS,
        LATENCY.kernel,
        [SimulatedRequest(f"{i:04}", a, p, o, max_tokens=4096 - p) for i, (a, p, o) in enumerate(columns)],
    )
    alone.run()
    np.testing.assert_array_equal(
        result.column("ttft_s"), [o.first_token_s for o in alone.outcomes()] - load.arrival_s
    )
    np.testing.assert_array_equal(
        result.column("e2e_s"), [o.finish_s for o in alone.outcomes()] - load.arrival_s
    )


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_answers_everything_and_the_same_twice(policy: str) -> None:
    spec = ClusterSpec((INSTANCE,) * 3, policy, schedulers=2, scenarios=2, seed=5)
    load = _load(60, 7.0, kind="distribution")
    result = simulate_cluster(spec, load)
    assert result.summary["answered"] == 60
    assert _bytes(result) == _bytes(simulate_cluster(spec, load))
    assert np.isfinite(result.column("tpot_s")[load.output_tokens > 1]).all()
    assert len(set(result.column("instance"))) == 3


def test_another_seed_chooses_differently() -> None:
    load = _load(60, 7.0)
    spec = ClusterSpec((INSTANCE,) * 3, "random")
    assert _bytes(simulate_cluster(spec, load)) != _bytes(simulate_cluster(replace(spec, seed=1), load))


def test_predictions_come_true_where_nobody_follows() -> None:
    load = ClusterLoad(np.arange(5) * 100.0, np.full(5, 300), np.full(5, 200))
    result = simulate_cluster(ClusterSpec((INSTANCE,) * 2, "block"), load)
    assert result.summary["e2e_error_p50"] < 0.002
    assert result.column("predicted_ttft_s") == pytest.approx(result.column("ttft_s"), rel=0.02)
    assert set(result.column("rank")) == {1}


def test_knowing_lengths_beats_knowing_nothing() -> None:
    load = _load(400, 10.0)
    p99_s = {
        policy: simulate_cluster(ClusterSpec((INSTANCE,) * 4, policy), load).summary["p99_ttft_s"]
        for policy in ("round_robin", "block")
    }
    assert p99_s["block"] < 0.6 * p99_s["round_robin"]


def test_a_quicker_instance_gets_more() -> None:
    quick = SimulatedInstance(LIMITS, load_latency(Path("config/packs/a100-80-sxm-llama-2-7b.npz")))
    result = simulate_cluster(ClusterSpec((INSTANCE, quick), "block"), _load(150, 5.0))
    counts = np.bincount(result.column("instance"))
    assert counts[1] > 2 * counts[0]


@pytest.mark.parametrize("policy", ["block", "least_request", "llumnix"])
def test_no_request_is_lost_when_instances_fail(policy: str) -> None:
    failures = (Failure(0, 3.0, noticed_s=0.5, back_s=9.0), Failure(1, 6.0, noticed_s=1.0), Failure(0, 12.0))
    spec = ClusterSpec((INSTANCE,) * 3, policy, failures=failures, schedulers=2)
    result = simulate_cluster(spec, _load(150, 9.0))
    summary = result.summary
    assert summary["answered"] + summary["broken"] == 150
    assert summary["broken"] > 0
    attempts = result.requests["attempts"].to_numpy()
    assert attempts.max() > 1
    # Whoever had no first byte yet went on elsewhere.
    assert summary["answered"] >= 150 - 3 * LIMITS.max_num_seqs
    assert result.series["running"][-1, 1] == 0


def test_without_any_instance_requests_are_refused() -> None:
    spec = ClusterSpec((INSTANCE,), failures=(Failure(0, 2.0),))
    result = simulate_cluster(spec, _load(40, 9.0))
    assert result.summary["refused"] > 0
    assert result.summary["answered"] + result.summary["broken"] + result.summary["refused"] == 40


def test_a_drained_instance_finishes_what_it_has_and_leaves() -> None:
    leaving = replace(INSTANCE, drains_s=4.0)
    result = simulate_cluster(ClusterSpec((INSTANCE, leaving), "round_robin"), _load(120, 6.0))
    assert result.summary["answered"] == 120
    decided_s, instance = (result.requests[name].to_numpy() for name in ("decided_s", "instance"))
    assert set(instance[decided_s > 4.0]) == {0}
    assert result.present[0].tolist() == [1, 1]
    assert result.present[-1].tolist() == [1, 0]
    assert result.served_s[1] < result.served_s[0]


def _provisioned(strategy: str, **settings: object) -> ClusterSpec:
    waiting = replace(INSTANCE, joins_s=float("inf"))
    rule = ProvisioningSettings(
        strategy=strategy,  # type: ignore[arg-type]
        **{  # type: ignore[arg-type]
            "min_instances": 2,
            "max_instances": 4,
            "threshold_s": 10.0,
            "cold_start_s": 5.0,
            "cool_down_s": 10.0,
            "patience_s": 10.0,
            "horizon_s": 30.0,
            "interval_s": 1.0,
            **settings,
        },
    )
    return ClusterSpec((INSTANCE, INSTANCE, waiting, waiting), provisioning=rule)


@pytest.mark.parametrize("strategy", ["relief", "preempt", "slo"])
def test_provisioning_adds_instances_under_load_and_the_same_ones_again(strategy: str) -> None:
    spec = _provisioned(strategy)
    result = simulate_cluster(spec, _load(300, 9.0))
    assert result.present[0].tolist() == [1, 1, 0, 0]
    assert result.present[-1].sum() > 2
    without = simulate_cluster(replace(spec, provisioning=None), _load(300, 9.0))
    assert result.summary["mean_e2e_s"] < without.summary["mean_e2e_s"]
    assert set(result.column("instance")) > {0, 1}
    again = simulate_cluster(spec, _load(300, 9.0))
    assert _bytes(again) == _bytes(result)
    assert again.decisions == result.decisions


def test_instances_are_paid_for_from_the_moment_they_are_called_for() -> None:
    result = simulate_cluster(_provisioned("preempt"), _load(300, 9.0))
    [called_s, *_] = [decision.at_s for decision in result.decisions if decision.add]
    [ready_s, *_] = result.sampled_s[result.present.sum(axis=1) > 2]
    assert ready_s - called_s == pytest.approx(5.0, abs=1.0)
    assert result.served_s[2] == pytest.approx(result.served_s[0] - called_s, abs=1e-6)


def test_a_quiet_cluster_drains_to_its_minimum_and_a_dry_run_only_says_so() -> None:
    spec = _provisioned("slo", min_instances=1)
    result = simulate_cluster(spec, _load(60, 0.8))
    assert result.present[-1].sum() == 1
    assert result.summary["answered"] == 60
    assert spec.provisioning is not None
    dry = replace(spec, provisioning=spec.provisioning.model_copy(update={"dry_run": True}))
    shown = simulate_cluster(dry, _load(60, 0.8))
    assert any(decision.drain and decision.dry_run for decision in shown.decisions)
    assert shown.present[-1].sum() == 2


def test_reservations_keep_simultaneous_requests_apart() -> None:
    """Four schedulers get one long request each at about the same time."""
    load = ClusterLoad(1.0 + np.arange(8) * 1e-4, np.full(8, 800), np.full(8, 300))
    spec = ClusterSpec((INSTANCE,) * 8, schedulers=4, delays=Delays(decision_s=0.0, tell_s=0.0))
    with_them = simulate_cluster(spec, load)
    assert len(set(with_them.column("instance"))) == 8
    without = simulate_cluster(replace(spec, reservations=False), load)
    assert len(set(without.column("instance"))) < 8


def test_hindsight_ranks_the_choice_by_true_lengths() -> None:
    spec = ClusterSpec((INSTANCE,) * 4, hindsight=True)
    truth = simulate_cluster(spec, _load(120, 9.0))
    wrong = simulate_cluster(spec, _load(120, 9.0, kind="constant"))
    assert truth.column("true_rank").min() == 1
    assert (truth.column("true_rank") == 1).mean() > (wrong.column("true_rank") == 1).mean()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"schedulers": 0}, "schedulers = 0"),
        ({"instances": ()}, "instances: none"),
        ({"sample_s": 0.0}, "sample_s"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(changes: dict[str, object], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        replace(ClusterSpec((INSTANCE,)), **changes)  # type: ignore[arg-type]


def test_a_load_whose_columns_differ_is_refused() -> None:
    with pytest.raises(StateError, match="differ in length"):
        ClusterLoad(np.arange(3.0), np.ones(3, np.int64), np.ones(2, np.int64))
    with pytest.raises(StateError, match="never fall"):
        ClusterLoad(np.array([1.0, 0.5]), np.ones(2, np.int64), np.ones(2, np.int64))


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown"):
        simulate_cluster(ClusterSpec((INSTANCE,), "best"), _load(3, 1.0))
