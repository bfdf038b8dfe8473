"""An instance whose predictor is away is well itself: it gets its share, and no more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from block.config import InstanceConfig
from block.types import EngineLoad
from global_scheduler.fair_share import SILENT_S, with_fair_share
from global_scheduler.fleet import Fleet, Instance
from global_scheduler.policies import Candidate, Choice, RoutingRequest

LOAD = EngineLoad(0, 0, 0, 100, 100, 0, 0)
CHOICE = Choice("a", ("b", "c", "d"), "best")


def fleet_of(*silent: str) -> Sequence[Instance]:
    """Four instances, some of whose predictors have not answered since second 0; a capital has none."""
    url, there = "http://127.0.0.1:1", [name for name in "abcd" if name.upper() not in silent]
    configs = [
        InstanceConfig(name=name, url=url, predictor_url=url if name in there else None) for name in "abcd"
    ]
    instances = Fleet(configs, 1.0).instances
    for instance in instances:
        instance.traffic.miss(0.0)
        if instance.name not in silent:
            instance.traffic.hear(LOAD, instance.traffic.tally, 0.0)
    return instances


def chosen(
    silent: str, now_s: float = 2 * SILENT_S, choice: Choice = CHOICE, **outstanding: int
) -> Counter[Choice | None]:
    """What 1,000 requests get."""
    candidates = [Candidate(name, outstanding.get(name, 5)) for name in "abcd"]
    instances = fleet_of(*silent)
    requests = [RoutingRequest("r", "m", 1, 1, 1, 0, sequence=0, seed=seed) for seed in range(1000)]
    return Counter(with_fair_share(choice, request, instances, candidates, now_s) for request in requests)


@pytest.mark.parametrize("silent", ["c", "C"])
def test_the_silent_one_gets_its_share_and_the_others_are_ranked_as_before(silent: str) -> None:
    counts = chosen(silent)
    assert set(counts) == {None, Choice("c", ("a", "b", "d"), "fair_share")}
    assert counts[None] == pytest.approx(750, abs=50)


def test_each_of_several_gets_its_share() -> None:
    counts = chosen("bd")
    named = {share.instance: count for share, count in counts.items() if share is not None}
    assert named == {"b": pytest.approx(250, abs=50), "d": pytest.approx(250, abs=50)}


@pytest.mark.parametrize(
    ("silent", "now_s", "outstanding"),
    [
        ("", 100.0, {}),
        ("c", 0.9 * SILENT_S, {}),  # late, maybe
        ("c", 100.0, {"c": 6}),  # more than the others have on average
        ("abcd", 100.0, {}),  # nobody to compare with
        ("a", 100.0, {}),  # chosen anyway
    ],
)
def test_the_choice_stands(silent: str, now_s: float, outstanding: dict[str, int]) -> None:
    assert set(chosen(silent, now_s, **outstanding)) == {None}


async def test_a_dead_predictor_does_not_take_its_instance_out_of_service(world) -> None:
    """Two instances, and half of the predictors are enough to decide on: all would go to the other one."""
    fleet = await world(instances=2, predictors=True, policy="block")
    fleet.predictors["b"].behaviour = "broken"
    assert {(await fleet.chat()).headers["x-block-instance"] for _ in range(5)} == {"a"}
    await asyncio.sleep(1.1 * SILENT_S)
    answers = [await fleet.chat() for _ in range(100)]
    told = Counter((one.headers["x-block-instance"], one.headers.get("x-block-fallback")) for one in answers)
    assert set(told) == {("a", None), ("b", "fair_share")}
    assert 30 <= told["b", "fair_share"] <= 70
    predicted = {
        one.headers["x-block-instance"] for one in answers if "x-block-predicted-e2e-ms" in one.headers
    }
    assert predicted == {"a"}
    fleet.predictors["b"].behaviour = "answer"
    await fleet.chat()
    assert "x-block-fallback" not in (await fleet.chat()).headers
