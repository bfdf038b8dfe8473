"""Lengths said by estimators that were trained on other prompts than those that are sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from block.errors import ConfigError, StateError
from exp.cluster.text_lengths import TextLengths, read_text_lengths, text_lengths

ESTIMATORS = ("features", "history", "constant")


def test_what_is_sent_was_not_trained_on_and_is_estimated(text_sets: Path) -> None:
    lengths = read_text_lengths(text_sets, ESTIMATORS)
    assert len(lengths.prompt_tokens) == 100
    medians = {name: said[:, said.shape[1] // 2] for name, said in lengths.said.items()}
    errors = {name: float(np.abs(said - lengths.output_tokens).mean()) for name, said in medians.items()}
    assert errors["features"] < errors["constant"] / 3
    assert np.ptp(medians["constant"]) == 0


def test_loads_are_drawn_by_seed_and_differ_in_what_is_expected_only(text_sets: Path) -> None:
    lengths = read_text_lengths(text_sets, ESTIMATORS)
    known, learned = lengths.load(None, 50, seed=1), lengths.load("features", 50, seed=1)
    assert known.expected is None
    assert learned.expected is not None
    assert learned.expected.tokens.shape == (50, 7)
    assert (known.arrival_s == learned.arrival_s).all()
    assert (known.output_tokens == learned.output_tokens).all()
    assert (lengths.load(None, 50, seed=2).output_tokens != known.output_tokens).any()


def test_what_estimators_say_is_kept_and_read_again(text_sets: Path, tmp_path: Path) -> None:
    kept = tmp_path / "said.npz"
    made = text_lengths(text_sets, ESTIMATORS, kept)
    read = TextLengths.read(kept, ("history",))
    np.testing.assert_array_equal(read.said["history"], made.said["history"])
    np.testing.assert_array_equal(read.output_tokens, made.output_tokens)
    with pytest.raises(StateError, match="nothing there of roberta"):
        text_lengths(text_sets, ("roberta",), kept)


def test_too_many_requests_and_no_data_are_told(text_sets: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only 100 prompts are held out"):
        read_text_lengths(text_sets, ESTIMATORS).load(None, 101, seed=0)
    with pytest.raises(ConfigError, match=r"no folder text_\* of prompts"):
        read_text_lengths(tmp_path, ESTIMATORS)
