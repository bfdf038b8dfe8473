"""The in-flight ledger: no choice is lost, none is counted twice."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from block.lengths import LengthDistribution
from block.messages import CandidateRequest
from predictor.ledger import Ledger, router_id

TTL_S = 5.0


def _candidate(name: str, sequences: int = 1, samples: int = 1) -> CandidateRequest:
    return CandidateRequest(name, 10, 7, 20, sequences=sequences, samples=samples)


class _Clock:
    """A steady clock that a test sets."""

    now_s = 1.0

    def __call__(self) -> float:
        return self.now_s


def _waiting(ledger: Ledger) -> list[str]:
    ledger.expire()
    return [arrival.id for arrival in ledger.arrivals()]


def test_router_ids_are_read_out_of_vllms_request_ids() -> None:
    assert router_id("chatcmpl-block-12ab-0123abcd") == "block-12ab"
    assert router_id("cmpl-block-12ab-0-0123abcd") == "block-12ab"
    assert router_id("cmpl-a-b-3-11-0123abcd") == "a-b-3"
    assert router_id("0_chatcmpl-block-12ab-0123abcd") == "block-12ab"
    assert router_id("11_cmpl-block-12ab-0-0123abcd") == "block-12ab"
    assert router_id("something else") == "something else"


def test_a_choice_counts_until_the_feed_shows_it() -> None:
    ledger = Ledger(TTL_S)
    ledger.commit(_candidate("a"), 1.0)
    assert _waiting(ledger) == ["a"]
    ledger.observe(["chatcmpl-a-00000000"])
    assert _waiting(ledger) == []
    assert ledger.length("chatcmpl-a-00000000") == LengthDistribution.point(7)


def test_a_choice_of_several_sequences_is_known_by_any_of_them() -> None:
    ledger = Ledger(TTL_S)
    ledger.commit(_candidate("a"), 1.0)
    ledger.observe(["0_chatcmpl-a-00000000", "1_chatcmpl-a-00000000"])
    assert _waiting(ledger) == []
    ledger.observe(["1_chatcmpl-a-00000000"])
    assert ledger.length("1_chatcmpl-a-00000000") == LengthDistribution.point(7)


def test_sequences_that_the_feed_has_not_shown_still_count() -> None:
    clock = _Clock()
    ledger = Ledger(TTL_S, clock)
    ledger.commit(_candidate("a", sequences=3), 1.0)
    assert _waiting(ledger) == ["a"] * 3
    ledger.observe(["0_chatcmpl-a-00000000"])
    assert _waiting(ledger) == ["a"] * 2
    ledger.observe([])  # the first has ended
    assert _waiting(ledger) == ["a"] * 2
    ledger.observe(["2_chatcmpl-a-00000000"])
    assert _waiting(ledger) == ["a"]
    assert ledger.length("2_chatcmpl-a-00000000") == LengthDistribution.point(7)
    clock.now_s += TTL_S + 0.1
    assert _waiting(ledger) == []
    assert ledger.length("2_chatcmpl-a-00000000") == LengthDistribution.point(7)


def test_only_the_first_response_to_a_prompt_has_it_to_compute() -> None:
    ledger = Ledger(TTL_S)
    ledger.commit(_candidate("a", sequences=4, samples=2), 1.0)
    assert [arrival.cached_tokens for arrival in ledger.arrivals()] == [0, 10, 0, 10]


def test_a_choice_told_after_the_feed_showed_it_is_not_counted() -> None:
    ledger = Ledger(TTL_S)
    ledger.observe(["chatcmpl-a-00000000"])
    ledger.commit(_candidate("a"), 1.1)
    assert _waiting(ledger) == []
    assert ledger.length("chatcmpl-a-00000000") == LengthDistribution.point(7)


def test_a_choice_told_after_its_request_has_left_is_not_counted() -> None:
    ledger = Ledger(TTL_S)
    ledger.observe(["chatcmpl-a-00000000"])
    ledger.observe([])
    ledger.commit(_candidate("a"), 1.2)
    assert _waiting(ledger) == []


def test_a_sequence_that_left_before_the_choice_was_told_is_not_counted_but_the_others_are() -> None:
    ledger = Ledger(TTL_S)
    ledger.observe(["0_chatcmpl-a-00000000"])
    ledger.observe([])
    ledger.commit(_candidate("a", sequences=3), 1.2)
    assert _waiting(ledger) == ["a"] * 2
    ledger.observe(["2_chatcmpl-a-00000000"])
    assert _waiting(ledger) == ["a"]
    ledger.observe(["1_chatcmpl-a-00000000"])
    assert _waiting(ledger) == []
    assert ledger.length("1_chatcmpl-a-00000000") == LengthDistribution.point(7)


def test_sequences_that_come_one_after_the_other_are_known_when_the_choice_is_told() -> None:
    ledger = Ledger(TTL_S)
    for number in range(2):
        ledger.observe([f"{number}_chatcmpl-a-00000000"])
        ledger.observe([])
    ledger.commit(_candidate("a", sequences=2), 1.2)
    assert _waiting(ledger) == []


def test_a_choice_that_never_arrives_expires() -> None:
    clock = _Clock()
    ledger = Ledger(TTL_S, clock)
    ledger.commit(_candidate("a"), 1.0)
    clock.now_s += TTL_S
    assert _waiting(ledger) == ["a"]
    clock.now_s += 0.1
    assert _waiting(ledger) == []


def test_setting_the_time_of_day_neither_loses_nor_keeps_choices() -> None:
    clock = _Clock()
    ledger = Ledger(TTL_S, clock)
    for number, now_s in enumerate((5000.0, 1000.0, 9000.0)):
        ledger.commit(_candidate(f"r{number}"), now_s)
    assert _waiting(ledger) == ["r0", "r1", "r2"]
    clock.now_s += TTL_S + 0.1
    assert _waiting(ledger) == []


def test_a_second_word_of_fewer_sequences_leaves_nothing_behind() -> None:
    ledger = Ledger(TTL_S)
    ledger.commit(_candidate("a", sequences=2), 1.0)
    ledger.observe(["0_chatcmpl-a-00000000"])
    ledger.observe([])
    ledger.commit(_candidate("a"), 1.3)
    assert _waiting(ledger) == []
    assert ledger.length("a") is None


def test_a_released_choice_is_forgotten() -> None:
    ledger = Ledger(TTL_S)
    ledger.commit(_candidate("a"), 1.0)
    ledger.release("a")
    ledger.release("never heard of")
    assert _waiting(ledger) == []


def test_late_word_of_a_released_choice_does_not_bring_it_back() -> None:
    """A probe that carries it may be overtaken by its release."""
    ledger = Ledger(TTL_S)
    for name in ("known", "unknown"):
        if name == "known":
            ledger.commit(_candidate(name), 1.0)
        ledger.release(name)
        ledger.commit(_candidate(name), 1.2)
        assert _waiting(ledger) == []
        assert ledger.length(name) is None


def test_versions_change_when_answers_would() -> None:
    ledger = Ledger(TTL_S)
    seen = [ledger.version]
    ledger.commit(_candidate("a"), 1.0)
    seen.append(ledger.version)
    ledger.observe(["chatcmpl-a-00000000"])
    seen.append(ledger.version)
    ledger.observe([])
    seen.append(ledger.version)
    assert len(set(seen)) == 4
    ledger.observe([])
    assert ledger.version == seen[-1]


class LedgerAgainstTruth(RuleBasedStateMachine):
    """Sequences go router -> wire -> engine -> gone; word of their request may come at any time or never."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = _Clock()
        self.ledger = Ledger(TTL_S, self.clock)
        self.sequences: list[int] = []
        """By the number of the request."""
        self.told_s: dict[int, float] = {}
        self.left_s: dict[int, float] = {}
        """When none of its sequences was there any more."""
        self.wire: list[tuple[int, int]] = []
        """(request, sequence)."""
        self.engine: list[tuple[int, int]] = []

    @rule(tell=st.booleans(), sequences=st.sampled_from([1, 1, 2, 3]))
    def dispatch(self, tell: bool, sequences: int) -> None:
        number = len(self.sequences)
        self.sequences.append(sequences)
        self.wire += [(number, sequence) for sequence in range(sequences)]
        if tell:
            self._tell(number)

    @rule(data=st.data())
    def arrive_and_show(self, data: st.DataObject) -> None:
        if self.wire:
            self.engine.append(self.wire.pop(data.draw(st.integers(0, len(self.wire) - 1))))
            self._show()

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        if not self.engine:
            return
        number, _ = self.engine.pop(data.draw(st.integers(0, len(self.engine) - 1)))
        if self._present(number) == 0:
            self.left_s[number] = self.clock.now_s
        self._show()

    @rule(data=st.data())
    def tell_late(self, data: st.DataObject) -> None:
        if self.sequences:
            number = data.draw(st.integers(0, len(self.sequences) - 1))
            # One that left more than a TTL ago may be counted again until it expires.
            if self._remembered(number) or self._under_way(number) == self.sequences[number]:
                self._tell(number)

    @rule(seconds=st.floats(0.0, 2.0))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.ledger.expire()
        for number, sequences in enumerate(self.sequences):
            if self._under_way(number) < sequences and not self._remembered(number):
                # What comes of it later is another request to the ledger, as it has forgotten this one.
                self.wire = [each for each in self.wire if each[0] != number]

    def _tell(self, number: int) -> None:
        self.ledger.commit(_candidate(f"r{number}", self.sequences[number]), self.clock.now_s)
        self.told_s[number] = self.clock.now_s

    def _fresh(self, number: int) -> bool:
        return self._under_way(number) > 0 and self.told_s.get(number, -math.inf) >= self.clock.now_s - TTL_S

    def _remembered(self, number: int) -> bool:
        recently = self.left_s.get(number, -math.inf) >= self.clock.now_s - TTL_S
        return self._fresh(number) or self._present(number) > 0 or recently

    def _present(self, number: int) -> int:
        return sum(each == number for each, _ in self.engine)

    def _under_way(self, number: int) -> int:
        return sum(each == number for each, _ in self.wire)

    def _show(self) -> None:
        names = [f"{sequence}_chatcmpl-r{number}-0123abcd" for number, sequence in self.engine]
        self.ledger.observe(names)

    @invariant()
    def every_told_sequence_under_way_counts_exactly_once(self) -> None:
        fresh = [f"r{number}" for number, _ in self.wire if self._fresh(number)]
        assert sorted(_waiting(self.ledger)) == sorted(fresh)


TestLedgerAgainstTruth = LedgerAgainstTruth.TestCase
TestLedgerAgainstTruth.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@given(st.text())
def test_any_text_is_an_engine_id(name: str) -> None:
    assert isinstance(router_id(name), str)
