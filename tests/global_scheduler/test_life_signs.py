"""Silence is when somebody waits and nobody gets anything."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from block.errors import RequestError
from global_scheduler.life_signs import LifeSigns


@dataclass(eq=False)
class Request:
    sent_s: float
    streams: bool = True
    heard_s: float = -math.inf
    waiting: bool = True
    told: list[str] = field(default_factory=list)

    def hear(self, now_s: float) -> None:
        self.heard_s, self.waiting = now_s, False

    def give_up(self) -> None:
        self.told.append("give up")
        self.waiting = False

    def evict(self, error: RequestError) -> None:
        self.told.append("evict")


def signs_of(*requests: Request) -> LifeSigns:
    signs = LifeSigns()
    for request in requests:
        signs.begin(request)
    return signs


def test_nobody_who_waits_is_no_silence() -> None:
    running = Request(0.0)
    running.hear(1.0)
    assert LifeSigns().silence_s(100.0, streams=True) == 0.0
    assert signs_of(running).silence_s(100.0, streams=False) == 0.0


def test_silence_counts_from_the_last_byte_for_anybody_but_not_from_before_the_waiting_began() -> None:
    waiting, running = Request(10.0), Request(0.0)
    signs = signs_of(waiting, running)
    running.hear(5.0)
    assert signs.silence_s(20.0, streams=True) == 10.0
    running.hear(18.0)
    assert signs.silence_s(20.0, streams=True) == 2.0
    signs.end(running)  # what was heard is not forgotten with it
    assert signs.silence_s(20.0, streams=True) == 2.0
    assert signs.heard_since(17.0)
    assert not signs.heard_since(18.0)


def test_answers_that_are_no_streams_may_be_waited_for_much_longer() -> None:
    signs = signs_of(Request(0.0, streams=False))
    assert signs.silence_s(50.0, streams=True) == 0.0
    assert signs.silence_s(50.0, streams=False) == 50.0


def test_who_waits_gives_up_and_eviction_ends_the_others_too() -> None:
    waiting, running = Request(0.0), Request(0.0)
    signs = signs_of(waiting, running)
    running.hear(1.0)
    signs.give_up()
    assert (waiting.told, running.told) == (["give up"], [])
    signs.evict(RequestError("over"))
    assert running.told == ["evict"]
