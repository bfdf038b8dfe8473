"""The features estimator: its trees are scikit-learn's, its model file is checked, and it never raises."""

from __future__ import annotations

import json
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from block.errors import PackError
from block.lengths import LengthDistribution
from length_estimation.dataset import read_examples
from length_estimation.estimator import EstimationRequest
from length_estimation.factory import load_trained
from length_estimation.features import ARRAYS, FeaturesEstimator, FeaturesModel
from length_estimation.features_training import FeaturesOptions, train_features
from length_estimation.forest import Forest
from length_estimation.lexicon import COLUMNS, hashed_words, numbers_of, words_of
from length_estimation.prompt_text import HEAD, MOST_JSON_BYTES, TAIL, read_prompt
from length_estimation.quantiles import LEVELS
from length_estimation.split import groups_of
from length_estimation.token_counter import make_token_counter


def ask(prompt, max_tokens=4096, model="small"):
    return EstimationRequest(20, max_tokens, prompt_json=json.dumps(prompt).encode(), model=model)


def assert_is_an_estimate(estimate, max_tokens):
    tokens = [value for _, value in estimate.quantiles]
    assert [level for level, _ in estimate.quantiles] == list(LEVELS)
    assert tokens == sorted(tokens)
    assert tokens[0] >= 1
    assert tokens[-1] <= max_tokens
    assert 1 <= estimate.mean_tokens <= max_tokens
    LengthDistribution(estimate.quantiles)


def test_the_flat_forest_says_what_scikit_learn_says():
    from sklearn.ensemble import HistGradientBoostingRegressor

    random_ = np.random.default_rng(0)
    rows = random_.normal(size=(300, 4))
    outputs, trees = [], []
    for level in (0.1, 0.9):
        model = HistGradientBoostingRegressor(loss="quantile", quantile=level, max_iter=9, min_samples_leaf=5)
        trees.append(model.fit(rows, rows[:, 0] ** 2 + random_.normal(size=300)))
        outputs.append(
            (float(np.ravel(model._baseline_prediction)[0]), [s[0].nodes for s in model._predictors])
        )
    forest = Forest.compiled(outputs)
    for row in random_.normal(size=(50, 4)):
        said = [model.predict(row[None])[0] for model in trees]
        assert forest.predict(row) == pytest.approx(said, abs=1e-9)


def test_it_learns_that_the_task_decides_the_length(features_folder):
    estimator = FeaturesEstimator.load(features_folder)
    essay = estimator.estimate(ask("Write a long essay about tea, item 9000."))
    word = estimator.estimate(ask("Say in one word what you think of tea, item 9000."))
    assert 250 < essay.median_tokens < 600
    assert word.median_tokens < 10
    assert (essay.source, essay.version) == ("features", word.version)


def test_a_limit_cuts_the_distribution_and_its_mean(features_folder):
    estimator = FeaturesEstimator.load(features_folder)
    free, cut = (estimator.estimate(ask("Write a long essay about tea.", most)) for most in (4096, 50))
    assert_is_an_estimate(cut, 50)
    assert cut.unbounded == free.unbounded
    assert cut.mean_tokens <= 50 < free.mean_tokens


@settings(max_examples=150)
@given(raw=st.binary(max_size=400), seed=st.integers(0, 2**32))
def test_any_bytes_get_an_estimate(features_folder, raw, seed):
    draw = random.Random(seed)
    most = draw.choice([1, 2, 17, 4096, 2**31 - 1])
    request = EstimationRequest(
        draw.choice([0, 1, 10**9]), most, prompt_json=raw, model=draw.choice(["", "small", "é" * 99]),
        temperature=draw.choice([None, 0.0, 1.3]),
    )  # fmt: skip
    assert_is_an_estimate(load_once(features_folder).estimate(request), most)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
parts = st.lists(
    st.fixed_dictionaries({}, optional={"type": json_values, "text": json_values, "image_url": json_values})
)
chats = st.lists(
    st.fixed_dictionaries({}, optional={"role": json_values, "content": json_values | parts}), max_size=5
)


@settings(max_examples=150)
@given(value=json_values | chats)
def test_any_json_gets_an_estimate(features_folder, value):
    raw = json.dumps(value).encode()
    assert_is_an_estimate(
        load_once(features_folder).estimate(EstimationRequest(5, 100, prompt_json=raw)), 100
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "x",
        "",
        "写一首关于茶的诗",
        "اكتب قصيدة",
        "🙂" * 500,
        "\ud800 lone",
        "\x00\x01",
        "⁷³ ½ ٣",
        "a" * 2_000_000,
    ],
    ids=["byte", "empty", "chinese", "arabic", "emoji", "surrogate", "control", "odd digits", "2 MB"],
)
def test_any_prompt_gets_an_estimate_soon(features_folder, prompt):
    estimator = load_once(features_folder)
    request = ask(prompt)
    took_s = []
    for _ in range(5):
        started_s = time.perf_counter()
        assert_is_an_estimate(estimator.estimate(request), 4096)
        took_s.append(time.perf_counter() - started_s)
    assert min(took_s) < 0.003  # 0.1 ms on an idle machine


def test_images_count_and_do_not_hide_the_text():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 900}}
    chat = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image, image]},
    ]
    text = read_prompt(json.dumps(chat).encode())
    assert (text.head, text.turns, text.attachments, text.system_characters) == ("What is this?", 2, 2, 7)


def test_a_long_prompt_is_read_at_both_ends():
    inside = read_prompt(json.dumps("a" * 5000 + "end").encode())
    assert (len(inside.head), inside.tail[-3:], inside.characters) == (HEAD, "end", 5003)
    unparsed = read_prompt(json.dumps("a" * MOST_JSON_BYTES + "end").encode())
    assert unparsed.tail.endswith('end"')
    assert len(unparsed.text) <= HEAD + TAIL + 1


def test_a_row_has_the_columns_it_promises():
    text = read_prompt(b'"Write 300 words on tea?"')
    words = words_of(text)
    assert len(numbers_of(text, words, 6, None)) == COLUMNS
    assert hashed_words(words, "a") != hashed_words(words, "b")


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda folder: (folder / ARRAYS).write_bytes(b"PK nonsense"), "damaged"),
        (lambda folder: (folder / ARRAYS).unlink(), "missing"),
        (lambda folder: (folder / "card.json").unlink(), "is this a trained model"),
        (lambda folder: (folder / "card.json").write_text('{"format": 1}'), "not a model's card"),
        (lambda folder: edit_card(folder, format=99), "format 99, this version reads 1"),
        (lambda folder: edit_card(folder, kind="roberta"), "holds a model of kind 'roberta', not 'features'"),
        (lambda folder: edit_card(folder, files={"../x": "0"}), "lies elsewhere"),
    ],
)
def test_a_damaged_model_says_what_is_wrong(tmp_path, features_folder, harm, complaint):
    folder = tmp_path / "model"
    shutil.copytree(features_folder, folder)
    harm(folder)
    with pytest.raises(PackError, match=complaint):
        FeaturesEstimator.load(folder)


def test_arrays_that_would_lead_astray_are_refused(tmp_path, features_folder):
    with np.load(features_folder / ARRAYS, allow_pickle=False) as arrays:
        made = dict(arrays)
    for name, wrong in (("children", 10**6), ("feature", -1), ("roots", 10**6)):
        np.savez(tmp_path / name, **{**made, name: np.full_like(made[name], wrong)})
        with pytest.raises(PackError, match="contradict each other"):
            FeaturesModel.load(tmp_path / f"{name}.npz")
    for name in ("children", "base", "value"):
        np.savez(tmp_path / name, **{**made, name: made[name][:, None]})
        with pytest.raises(PackError, match="contradict each other"):
            FeaturesModel.load(tmp_path / f"{name}.npz")
    for name, wrong in (("feature", made["feature"] + 0.5), ("starts", made["starts"] * 0)):
        np.savez(tmp_path / name, **{**made, name: wrong})
        with pytest.raises(PackError, match="contradict each other"):
            FeaturesModel.load(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "bare", **{name: array for name, array in made.items() if name != "levels"})
    with pytest.raises(PackError, match=r"not a features model \('levels"):
        FeaturesModel.load(tmp_path / "bare.npz")
    np.savez(tmp_path / "old", **{**made, "lexicon": np.array([0, COLUMNS, 5])})
    with pytest.raises(PackError, match="made for other features"):
        FeaturesModel.load(tmp_path / "old.npz")


def test_pickled_arrays_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "evil.npz", words=np.array([{"a": 1}], dtype=object))
    with pytest.raises(PackError, match="not a features model"):
        FeaturesModel.load(tmp_path / "evil.npz")


_LOADED: dict[Path, FeaturesEstimator] = {}


def load_once(folder):
    if folder not in _LOADED:
        _LOADED[folder] = load_trained(folder)
    return _LOADED[folder]


def edit_card(folder, **fields):
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_responses_that_were_cut_do_not_pass_for_short_ones(data_folder, cut_every_other):
    examples = read_examples(data_folder, make_token_counter(None))
    groups = groups_of([example.keys for example in examples])
    shortened = cut_every_other(examples, 50)
    taken_for_lengths = [replace(example, cut=False) for example in shortened]
    said = {}
    for name, taught in (("whole", examples), ("cut", shortened), ("naive", taken_for_lengths)):
        model = train_features(taught, groups, FeaturesOptions(iterations=60))
        long = FeaturesEstimator(model, "").estimate(ask("Write a long essay about tea."))
        short = FeaturesEstimator(model, "").estimate(ask("Name tea, item 7."))
        said[name] = long.quantiles[2][1], long.median_tokens, short.median_tokens
    assert said["naive"][0] < 60
    assert said["cut"] == pytest.approx(said["whole"], rel=0.35)
