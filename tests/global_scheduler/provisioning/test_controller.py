"""The controller keeps any strategy within bounds, says why, and drains the emptiest."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from block.provisioning_config import ProvisioningSettings
from block.types import EngineLoad
from global_scheduler.provisioning.base import ArrivalProcess, InstanceSeen, Observation, Wish
from global_scheduler.provisioning.controller import Controller, Decision

SETTINGS = ProvisioningSettings(
    strategy="preempt", min_instances=2, max_instances=5, cool_down_s=30.0, patience_s=20.0
)


@dataclass
class _Wishing:
    change: int
    heard: list[ArrivalProcess] = field(default_factory=list)

    def wish(self, seen: Observation, arrivals: ArrivalProcess) -> Wish:
        del seen
        self.heard.append(arrivals)
        return Wish(self.change, "because", {"e2e_s": 1.5})


def _instance(name: str, running: int = 1, tokens: int = 100) -> InstanceSeen:
    return InstanceSeen(name, EngineLoad(running, 0, 0, 10, 100, 0, tokens))


def _seen(at_s: float, count: int, starting: int = 0, **more: object) -> Observation:
    instances = tuple(_instance(f"i{index}") for index in range(count))
    return Observation(at_s, instances, (9.0,) * starting, **more)  # type: ignore[arg-type]


def _decide(change: int, *seen: Observation, settings: ProvisioningSettings = SETTINGS) -> Decision:
    controller = Controller(settings, _Wishing(change))
    return [controller.decide(one) for one in seen][-1]


def test_a_wish_is_cut_at_the_most() -> None:
    decision = _decide(4, _seen(0.0, 3))
    assert (decision.add, decision.held) == (2, "max_instances")
    assert _decide(1, _seen(0.0, 3, starting=2)).add == 0


def test_the_bounds_ask_without_any_strategy() -> None:
    assert _decide(0, _seen(0.0, 1)).add == 1
    assert "below min_instances" in _decide(0, _seen(0.0, 1)).reason
    assert len(_decide(0, _seen(0.0, 7), _seen(20.0, 7)).drain) == 2


def test_nothing_changes_within_the_cool_down() -> None:
    controller = Controller(SETTINGS, _Wishing(1))
    assert controller.decide(_seen(0.0, 2)).add == 1
    assert controller.decide(_seen(29.0, 2, starting=1)).held == "cool-down"
    assert controller.decide(_seen(30.0, 3)).add == 1


def test_an_instance_must_be_spare_for_a_while_on_end() -> None:
    strategy = _Wishing(-1)
    controller = Controller(SETTINGS, strategy)
    assert controller.decide(_seen(0.0, 3)).held == "patience"
    strategy.change = 0
    controller.decide(_seen(10.0, 3))
    strategy.change = -1
    assert controller.decide(_seen(20.0, 3)).held == "patience"
    assert controller.decide(_seen(40.0, 3)).drain


def test_the_emptiest_is_drained_and_of_equals_the_one_with_less_work() -> None:
    instances = (_instance("a", 3), _instance("b", 1, 90), _instance("c", 1, 80), _instance("d", 2))
    controller = Controller(SETTINGS, _Wishing(-1))
    controller.decide(Observation(0.0, instances))
    assert controller.decide(Observation(20.0, instances)).drain == ("c",)


def test_what_starts_cannot_stand_in_for_what_is_drained() -> None:
    assert not _decide(-1, _seen(0.0, 2, starting=2), _seen(20.0, 2, starting=2)).drain


def test_nothing_is_done_while_a_change_is_being_made() -> None:
    assert _decide(1, _seen(0.0, 3, changing=True)).held == "an earlier change is being made"


def test_the_arrivals_of_a_window_are_told_to_the_strategy() -> None:
    strategy = _Wishing(0)
    controller = Controller(SETTINGS, strategy)
    for look in range(9):
        controller.decide(_seen(10.0 * look, 3, requests=max(look - 4, 0) * 20))
    assert strategy.heard[-1].rate_per_s == 2.0
    assert strategy.heard[-1].growth_per_s == 2.0


def test_a_decision_is_a_line_of_json_with_reason_effect_and_dry_run() -> None:
    dry = SETTINGS.model_copy(update={"dry_run": True})
    line = json.loads(_decide(1, _seen(5.0, 2), settings=dry).line)
    assert line["reason"] == "because"
    assert line["effect"] == {"e2e_s": 1.5}
    assert (line["dry_run"], line["add"], line["wished"]) == (True, 1, 1)


@given(st.lists(st.tuples(st.floats(0.1, 40.0), st.integers(-6, 6), st.integers(0, 3)), max_size=60))
def test_no_wish_whatsoever_leaves_the_bounds_or_flaps(looks: list[tuple[float, int, int]]) -> None:
    strategy = _Wishing(0)
    controller = Controller(SETTINGS, strategy)
    serving, starting, now_s, changed_s = 3, 0, 0.0, float("-inf")
    for passed_s, change, joining in looks:
        now_s, strategy.change = now_s + passed_s, change
        joined = min(joining, starting)
        serving, starting = serving + joined, starting - joined
        decision = controller.decide(_seen(now_s, serving, starting))
        serving, starting = serving - len(decision.drain), starting + decision.add
        assert serving >= 2
        assert serving + starting <= 5
        if decision.changes:
            assert now_s - changed_s >= SETTINGS.cool_down_s
            changed_s = now_s
