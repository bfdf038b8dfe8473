"""Estimators say what they say they say, and never more than the request allows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from block.errors import ConfigError, PackError
from length_estimation.estimator import EstimationRequest
from length_estimation.factory import EstimatorSettings, load_trained, make_estimator

UNTRAINED = ("constant", "max_tokens", "oracle", "history")

SETTINGS = EstimatorSettings(constant_output_tokens=100)
requests = st.builds(
    EstimationRequest,
    prompt_tokens=st.integers(0, 10**9),
    max_tokens=st.integers(1, 2**31),
    declared_output_tokens=st.none() | st.integers(1, 2**31),
    prompt_json=st.binary(max_size=20),
)


@pytest.mark.parametrize("name", UNTRAINED)
@given(request_=requests)
def test_estimates_stay_within_the_request(name, request_):
    estimate = make_estimator(name, SETTINGS).estimate(request_)
    assert 1 <= estimate.mean_tokens <= request_.max_tokens
    assert all(0 < p < 1 and 1 <= tokens <= request_.max_tokens for p, tokens in estimate.quantiles)


@pytest.mark.parametrize(
    ("name", "declared", "tokens", "source"),
    [
        ("constant", 30, 100, "constant"),
        ("max_tokens", 30, 400, "max_tokens"),
        ("oracle", 30, 30, "oracle"),
        ("oracle", 900, 400, "oracle"),
        ("oracle", None, 400, "max_tokens"),
    ],
)
def test_what_each_says(name, declared, tokens, source):
    estimate = make_estimator(name, SETTINGS).estimate(EstimationRequest(10, 400, declared))
    assert (estimate.mean_tokens, estimate.source) == (tokens, source)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="'bert': unknown; known: constant, max_tokens, oracle, history"):
        make_estimator("bert", SETTINGS)


def test_only_trained_kinds_are_loaded_from_a_folder(features_folder, tmp_path):
    card = json.loads((features_folder / "card.json").read_text())
    for kind in ("history", "magic"):
        (tmp_path / "card.json").write_text(json.dumps(card | {"kind": kind}))
        with pytest.raises(
            PackError, match=f"{tmp_path}: holds a model of kind '{kind}'; known are features"
        ):
            load_trained(tmp_path)


@pytest.mark.parametrize("name", ["features", "roberta"])
def test_a_trained_estimator_asks_for_its_model(name):
    with pytest.raises(ConfigError, match="needs a trained model; name its folder"):
        make_estimator(name, SETTINGS)
