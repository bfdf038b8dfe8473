from __future__ import annotations

import os
import time
from pathlib import Path

from block.config import InstanceConfig
from deploy.fleet.registry import STALE_AFTER_S, InService, Registry


def instance(name: str) -> InstanceConfig:
    return InstanceConfig(name=name, url=f"http://{name}:8100", predictor_url=f"http://{name}:8200")


def names(registry: Registry) -> list[object]:
    return [entry["name"] for entry in registry.entries()]


def test_who_enters_is_listed_until_it_leaves(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.enter(instance("a"))
    registry.enter(instance("b"))
    assert registry.entries()[0] == instance("a").model_dump(exclude_defaults=True)
    registry.leave("a")
    registry.leave("a")
    assert names(registry) == ["b"]


def test_who_falls_silent_is_off_the_list_and_on_it_again_with_a_beat(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.enter(instance("a"))
    before_s = time.time() - STALE_AFTER_S - 5
    os.utime(tmp_path / "members" / "a.json", (before_s, before_s))
    assert names(registry) == []
    assert (registry.silent_s("a") or 0.0) > STALE_AFTER_S
    registry.beat("a")
    registry.leave("b")
    assert registry.silent_s("b") is None
    assert names(registry) == ["a"]


def test_only_those_wanted_are_listed_and_some_drain(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for name in ("a", "b", "c"):
        registry.enter(instance(name))
    registry.serve([InService("a"), InService("b", draining=True)])
    assert names(registry) == ["a", "b"]
    assert [entry.get("draining", False) for entry in registry.entries()] == [False, True]
