from __future__ import annotations

import numpy as np
import pytest
from vllm import SamplingParams

from block.lengths import LengthDistribution
from block.vllm_plugin.speaker import Speaker
from block.vllm_plugin.vocabulary import Vocabulary

VOCABULARY = Vocabulary(ordinary=tuple(range(10, 200)), eos=2, size=256)


def speaker(prompt: list[int] | None = None, seed: int = 0, **sampling: object) -> Speaker:
    return Speaker.of(prompt or [1, 2, 3], SamplingParams(**sampling), VOCABULARY, seed)


def spoken(voice: Speaker, count: int = 50) -> list[int]:
    return [voice.token(position) for position in range(count)]


def test_the_same_prompt_and_seed_say_the_same() -> None:
    assert spoken(speaker()) == spoken(speaker())


@pytest.mark.parametrize(
    "other", [speaker(prompt=[1, 2, 4]), speaker(seed=1), speaker(temperature=1.0) and speaker(seed=2)]
)
def test_another_prompt_or_seed_says_something_else(other: Speaker) -> None:
    assert spoken(other) != spoken(speaker())


def test_only_ordinary_tokens_are_said_and_many_of_them() -> None:
    words = set(spoken(speaker(), 1000))
    assert words <= set(VOCABULARY.ordinary)
    assert len(words) > 100


def test_the_recorded_length_ends_the_response_with_eos() -> None:
    voice = speaker(extra_args={"block_output_tokens": 7})
    assert 2 not in spoken(voice, 6)
    assert voice.token(6) == 2


def test_minimum_tokens_outrank_the_recorded_length() -> None:
    voice = speaker(extra_args={"block_output_tokens": 3}, min_tokens=9, max_tokens=20)
    assert [voice.token(position) == 2 for position in (2, 7, 8)] == [False, False, True]


@pytest.mark.parametrize("value", [0, -4, "12", 3.5, True, None, [1]])
def test_an_odd_recorded_length_is_ignored(value: object) -> None:
    assert 2 not in spoken(speaker(extra_args={"block_output_tokens": value}))


def test_ignoring_eos_means_no_eos() -> None:
    assert 2 not in spoken(speaker(ignore_eos=True, extra_args={"block_output_tokens": 3}))


def test_stop_tokens_are_never_said_by_chance() -> None:
    stops = list(range(10, 150))
    assert set(spoken(speaker(stop_token_ids=stops), 500)) == set(range(150, 200))


def test_a_grammar_is_obeyed_and_ends_as_soon_as_it_may() -> None:
    voice = speaker()
    assert voice.allowed_token(0, bitmask({77})) == 77
    assert voice.allowed_token(0, bitmask({voice.token(0), 77})) == voice.token(0)
    assert voice.allowed_token(5, bitmask({2, 77})) == 2


def test_a_grammar_that_may_end_at_once_goes_on_to_the_recorded_length() -> None:
    voice = speaker(extra_args={"block_output_tokens": 4}, stop_token_ids=[78])
    words = [voice.allowed_token(position, bitmask({2, 77, 78})) for position in range(4)]
    assert words == [77, 77, 77, 2]
    assert voice.allowed_token(0, bitmask({2})) == 2
    assert voice.allowed_token(9, bitmask({77})) == 77
    assert speaker(ignore_eos=True).allowed_token(0, bitmask({2, 77})) == 2


def bitmask(allowed: set[int]) -> np.ndarray:
    words = np.zeros(VOCABULARY.size // 32, dtype=np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << (token % 32))
    return words.view(np.int32)


def drawn(prompt: list[int], **sampling: object) -> int | None:
    lengths = LengthDistribution(((0.1, 10.0), (0.5, 100.0), (0.9, 300.0)))
    return Speaker.of(prompt, SamplingParams(**sampling), VOCABULARY, 0, lengths).output_tokens


def test_lengths_are_drawn_from_the_distribution() -> None:
    lengths = [drawn([1, 2, number]) or 0 for number in range(2000)]
    assert lengths == [drawn([1, 2, number]) for number in range(2000)]
    assert np.percentile(lengths, [10, 50, 90]) == pytest.approx([10, 100, 300], rel=0.15)


def test_a_recorded_length_or_a_forced_one_is_not_drawn() -> None:
    assert drawn([1], extra_args={"block_output_tokens": 7}) == 7
    assert drawn([1], ignore_eos=True) is None
    assert drawn([1], min_tokens=1000, max_tokens=2000) >= 1000
