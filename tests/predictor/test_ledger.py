"""The in-flight ledger: no choice is lost, none is counted twice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from block.lengths import LengthDistribution
from block.messages import CandidateRequest
from predictor.ledger import Ledger, router_id

TTL_S = 5.0


def _candidate(name: str, output_tokens: int = 7) -> CandidateRequest:
    return CandidateRequest(id=name, prompt_tokens=10, output_tokens=output_tokens, max_tokens=20)


def _waiting(ledger: Ledger, now_s: float) -> list[str]:
    ledger.expire(now_s)
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
    assert _waiting(ledger, 1.1) == ["a"]
    ledger.observe(["chatcmpl-a-00000000"], 1.2)
    assert _waiting(ledger, 1.2) == []
    assert ledger.length("chatcmpl-a-00000000") == LengthDistribution.point(7)


def test_a_choice_of_several_sequences_is_known_by_any_of_them() -> None:
    ledger = Ledger(TTL_S)
    ledger.commit(_candidate("a"), 1.0)
    ledger.observe(["0_chatcmpl-a-00000000", "1_chatcmpl-a-00000000"], 1.2)
    assert _waiting(ledger, 1.2) == []
    ledger.observe(["1_chatcmpl-a-00000000"], 1.3)
    assert ledger.length("1_chatcmpl-a-00000000") == LengthDistribution.point(7)


def test_a_choice_told_after_the_feed_showed_it_is_not_counted() -> None:
    ledger = Ledger(TTL_S)
    ledger.observe(["chatcmpl-a-00000000"], 1.0)
    ledger.commit(_candidate("a"), 1.1)
    assert _waiting(ledger, 1.1) == []
    assert ledger.length("chatcmpl-a-00000000") == LengthDistribution.point(7)


def test_a_choice_told_after_its_request_has_left_is_not_counted() -> None:
    ledger = Ledger(TTL_S)
    ledger.observe(["chatcmpl-a-00000000"], 1.0)
    ledger.observe([], 1.1)
    ledger.commit(_candidate("a"), 1.2)
    assert _waiting(ledger, 1.2) == []


def test_a_choice_that_never_arrives_expires() -> None:
    ledger = Ledger(TTL_S)
    ledger.commit(_candidate("a"), 1.0)
    assert _waiting(ledger, 1.0 + TTL_S) == ["a"]
    assert _waiting(ledger, 1.1 + TTL_S) == []


def test_a_released_choice_is_forgotten() -> None:
    ledger = Ledger(TTL_S)
    ledger.commit(_candidate("a"), 1.0)
    ledger.release("a", 1.0)
    ledger.release("never heard of", 1.0)
    assert _waiting(ledger, 1.0) == []


def test_late_word_of_a_released_choice_does_not_bring_it_back() -> None:
    """A probe that carries it may be overtaken by its release."""
    ledger = Ledger(TTL_S)
    for name in ("known", "unknown"):
        if name == "known":
            ledger.commit(_candidate(name), 1.0)
        ledger.release(name, 1.1)
        ledger.commit(_candidate(name), 1.2)
        assert _waiting(ledger, 1.2) == []
        assert ledger.length(name) is None


def test_versions_change_when_answers_would() -> None:
    ledger = Ledger(TTL_S)
    seen = [ledger.version]
    ledger.commit(_candidate("a"), 1.0)
    seen.append(ledger.version)
    ledger.observe(["chatcmpl-a-00000000"], 1.1)
    seen.append(ledger.version)
    ledger.observe([], 1.2)
    seen.append(ledger.version)
    assert len(set(seen)) == 4
    ledger.observe([], 1.3)
    assert ledger.version == seen[-1]


class LedgerAgainstTruth(RuleBasedStateMachine):
    """Requests go router -> wire -> engine -> gone; word of each may come at any time or never."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(TTL_S)
        self.now_s = 0.0
        self.count = 0
        self.told: dict[str, float] = {}
        self.wire: list[str] = []
        self.engine: list[str] = []

    @rule(tell=st.booleans())
    def dispatch(self, tell: bool) -> None:
        name = f"r{self.count}"
        self.count += 1
        self.wire.append(name)
        if tell:
            self.ledger.commit(_candidate(name), self.now_s)
            self.told[name] = self.now_s

    @rule(data=st.data())
    def arrive_and_show(self, data: st.DataObject) -> None:
        if self.wire:
            name = self.wire.pop(data.draw(st.integers(0, len(self.wire) - 1)))
            self.engine.append(name)
            self.told.pop(name, None)
            self._show()

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        if self.engine:
            self.engine.pop(data.draw(st.integers(0, len(self.engine) - 1)))
            self._show()

    @rule(data=st.data())
    def tell_late(self, data: st.DataObject) -> None:
        if self.count:
            name = f"r{data.draw(st.integers(0, self.count - 1))}"
            if name in self.wire:
                self.told[name] = self.now_s
            elif name not in self.engine:
                return  # left more than a TTL ago it may be counted again until it expires
            self.ledger.commit(_candidate(name), self.now_s)

    @rule(seconds=st.floats(0.0, 2.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def _show(self) -> None:
        self.ledger.observe([f"chatcmpl-{name}-0123abcd" for name in self.engine], self.now_s)

    @invariant()
    def every_told_request_under_way_counts_exactly_once(self) -> None:
        fresh = [name for name, told_s in self.told.items() if told_s >= self.now_s - TTL_S]
        assert sorted(_waiting(self.ledger, self.now_s)) == sorted(fresh)


TestLedgerAgainstTruth = LedgerAgainstTruth.TestCase
TestLedgerAgainstTruth.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@given(st.text())
def test_any_text_is_an_engine_id(name: str) -> None:
    assert isinstance(router_id(name), str)
