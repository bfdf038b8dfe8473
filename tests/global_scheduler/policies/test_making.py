"""Names and options become policies; what is wrong with them is said by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from block.config import SchedulerSettings
from block.errors import ConfigError
from global_scheduler.policies import POLICIES, make_policies, make_policy
from global_scheduler.policies.block import Block
from global_scheduler.settings_check import check_settings

OWN = """
from dataclasses import dataclass
from typing import Annotated, ClassVar
from pydantic import Field
from global_scheduler.policies import Choice, Needs

@dataclass(frozen=True)
class Last:
    needs: ClassVar[Needs] = Needs()
    skip: Annotated[int, Field(ge=0)] = 0

    def choose(self, request, candidates):
        order = list(reversed(candidates))
        return Choice.of([*order[self.skip:], *order[:self.skip]], "last")

class Plain:
    needs = Needs()

    def choose(self, request, candidates):
        return Choice.of(candidates, "first")

class Demanding(Plain):
    def __init__(self, must):
        pass

class Needless:
    def choose(self, request, candidates):
        return Choice.of(candidates, "first")

class Chooseless:
    needs = Needs()

class Forgetful(Plain):
    def choose(self, request, candidates):
        return Choice.of(candidates[:1], "only")

class Trusting(Plain):
    def choose(self, request, candidates):
        return Choice.of(sorted(candidates, key=lambda one: one.prediction.e2e_s), "trust")

a_function = len
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the operator's own, on the import path."""
    (tmp_path / "own_policies.py").write_text(OWN)
    (tmp_path / "broken_policies.py").write_text("def")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_policies", raising=False)
    return "own_policies"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="policy = 'blok': unknown; known: block, block_nosim, infaas"):
        make_policy("blok")


def test_options_become_fields() -> None:
    policy = make_policy("block", {"objective": "harm", "harm_weight": 0.5, "k": 2})
    assert policy == Block(objective="harm", harm_weight=0.5, k=2)
    assert policy.needs.probes == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": {"goal": "ttft"}}, r"x: policy_options\.block\.goal = 'ttft': unknown option; known: obj"),
        ({"block": {"objective": "fast"}}, r"x: policy_options\.block\.objective = 'fast': .*'completion'"),
        ({"block": {"k": 0}}, r"x: policy_options\.block\.k = 0: .* greater than or equal to 1"),
        ({"block": {"k": True}}, r"x: policy_options\.block\.k = True: .* integer"),
        ({"random": {"seed": 1}}, r"x: policy_options\.random\.seed = 1: unknown option; random has none"),
        ({"blok": {"k": 1}}, r"x: policy_options\.blok = 'blok': unknown; known: block,"),
    ],
)
def test_wrong_options_are_named_with_their_place(
    options: dict[str, dict[str, object]], message: str
) -> None:
    settings = SchedulerSettings.model_validate({"policy_options": options})
    with pytest.raises(ConfigError, match=message):
        check_settings(settings, lambda field: f"x: {field}")


def test_a_request_may_name_any_of_the_table_and_no_path(own: str) -> None:
    settings = SchedulerSettings(policy=f"{own}:Plain", policy_options={"block": {"k": 3}})
    policies = make_policies(settings)
    assert list(policies) == [*POLICIES, f"{own}:Plain"]
    assert policies["block"] == Block(k=3)


def test_a_policy_of_ones_own_takes_options(own: str) -> None:
    name = f"{own}:Last"
    settings = SchedulerSettings(policy=name, policy_options={name: {"skip": 1}})
    check_settings(settings, str)
    assert make_policies(settings)[name].skip == 1  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="skip = -1"):
        make_policy(name, {"skip": -1})
    with pytest.raises(ConfigError, match="unknown option; known: skip"):
        make_policy(name, {"skp": 1})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.at_all:Policy", "cannot import 'nowhere.at_all'.*PYTHONPATH"),
        ("broken_policies:Policy", "cannot import 'broken_policies'"),
        (":Policy", "cannot import ''"),
        ("own_policies:Missing", "own_policies has no class 'Missing'"),
        ("own_policies:a_function", "own_policies has no class 'a_function'"),
        ("own_policies:Demanding", "cannot be made without options: .*must"),
        ("own_policies:Needless", "'needs' must be a Needs"),
        ("own_policies:Chooseless", "no method choose"),
        ("own_policies:Forgetful", "names every candidate once"),
        ("own_policies:Trusting", "fails without predictions: AttributeError.*kit"),
    ],
)
@pytest.mark.usefixtures("own")
def test_what_is_no_policy_is_refused_before_anything_starts(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(SchedulerSettings(policy=path), str)
