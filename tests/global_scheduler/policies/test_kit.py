"""The kit finds what it says it finds."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from global_scheduler.policies import Choice, Needs
from global_scheduler.policies.kit import check_policy, check_speed, some_candidates, some_request


@dataclass
class First:
    """Nothing is wrong with it; the others each have one fault."""

    needs: ClassVar[Needs] = Needs()

    def choose(self, request: Any, candidates: Any) -> Choice:
        return Choice.of(candidates, "first")


@dataclass
class Stateful(First):
    turns: Any = field(default_factory=itertools.count)

    def choose(self, request: Any, candidates: Any) -> Choice:
        turn = next(self.turns) % len(candidates)
        return Choice.of([*candidates[turn:], *candidates[:turn]], "turn")


class GloballyRandom(First):
    def choose(self, request: Any, candidates: Any) -> Choice:
        random.random()
        return Choice.of(candidates, "first")


class Sorting(First):
    def choose(self, request: Any, candidates: Any) -> Choice:
        if isinstance(candidates, list):
            candidates.sort(key=lambda one: -one.outstanding)
        return Choice.of(sorted(candidates, key=lambda one: -one.outstanding), "in place")


class Partial(First):
    def choose(self, request: Any, candidates: Any) -> Choice:
        return Choice.of(candidates[:3], "three")


class Doubling(First):
    def choose(self, request: Any, candidates: Any) -> Choice:
        return Choice.of([*candidates, candidates[0]], "twice")


class Trusting(First):
    def choose(self, request: Any, candidates: Any) -> Choice:
        return Choice.of(sorted(candidates, key=lambda one: one.prediction.e2e_s), "trust")


class Pairing(First):
    def choose(self, request: Any, candidates: Any) -> Choice:
        first, second, *others = candidates
        return Choice.of([second, first, *others], "second")


class Silent(First):
    def choose(self, request: Any, candidates: Any) -> Choice:
        return Choice.of(candidates, "")


class Slow(First):
    def choose(self, request: Any, candidates: Any) -> Choice:
        ends_ns = time.thread_time_ns() + 100_000
        while time.thread_time_ns() < ends_ns:
            pass
        return Choice.of(candidates, "first")


def test_a_sound_policy_passes() -> None:
    check_policy(First())
    check_speed(First())


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (Stateful(), AssertionError),
        (GloballyRandom(), AssertionError),
        (Sorting(), AssertionError),
        (Partial(), AssertionError),
        (Doubling(), AssertionError),
        (Silent(), AssertionError),
        (Trusting(), AttributeError),
        (Pairing(), ValueError),
    ],
)
def test_each_fault_is_found(policy: First, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_policy(policy)


def test_a_slow_one_is_found() -> None:
    with pytest.raises(AssertionError, match="us of CPU"):
        check_speed(Slow())


def test_what_it_draws_comes_again_and_differs() -> None:
    assert some_request(3) == some_request(3)
    assert some_candidates(3) == some_candidates(3)
    assert some_candidates(3) != some_candidates(4)
