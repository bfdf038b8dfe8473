"""Data, split, scores and the evaluate command: nothing straddles, and the figures are what they say."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, norm
from typer.testing import CliRunner

from block.errors import PackError
from length_estimation.cli import app
from length_estimation.contenders import BASELINES
from length_estimation.cut_responses import limits_of
from length_estimation.dataset import UNLIMITED, read_examples
from length_estimation.evaluation import EvaluationOptions, evaluate
from length_estimation.quantiles import LEVELS
from length_estimation.scores import Answers, Scores, gain_interval, intervals
from length_estimation.split import folds_of, groups_of
from length_estimation.token_counter import make_token_counter

ROOT = Path(__file__).parents[2]
COUNTER = make_token_counter(None)


def read(tmp_path, *rows, name="data.jsonl"):
    (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read_examples(tmp_path / name, COUNTER)


@given(seed=st.integers(0, 2**32))
def test_whatever_shares_a_key_lies_in_one_fold(seed):
    draw = random.Random(seed)
    keys = [tuple(draw.choices("abcdefghijklmnop", k=draw.randint(0, 2))) for _ in range(40)]
    groups = groups_of(keys)
    if groups.max() < 3:
        return
    folds = folds_of(groups, 3, seed)
    for i, own in enumerate(keys):
        for j, other in enumerate(keys):
            if set(own) & set(other):
                assert folds[i] == folds[j]
    assert set(folds) == {0, 1, 2}


def test_duplicate_prompts_and_turns_of_a_conversation_share_a_group(tmp_path):
    examples = read(
        tmp_path,
        {"id": 1, "model": "a", "prompt": "What  is TEA?", "response": "x"},
        {"id": 2, "model": "b", "prompt": "what is tea?", "response": "x"},
        {"conversations": [{"from": "human", "value": "What is tea?"}, {"from": "gpt", "value": "y"},
                           {"from": "human", "value": "And milk?"}, {"from": "gpt", "value": "z"}], "id": 3},
        {"id": 4, "prompt": "other", "response": "x"},
    )  # fmt: skip
    assert len(examples) == 5
    groups = groups_of([example.keys for example in examples])
    assert groups[2] == groups[3]
    assert groups[0] == groups[1]
    assert groups[4] not in groups[:4]


def turns(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def groups(examples):
    return groups_of([example.keys for example in examples]).tolist()


def test_turns_of_a_conversation_without_an_id_share_a_group(tmp_path):
    rows = [{"messages": turns(f"question {i}", "a", "and then?", "b")} for i in range(3)]
    assert groups(read(tmp_path, *rows)) == [0, 0, 1, 1, 2, 2]
    logged = [
        {"messages": turns("question 0"), "output_tokens": 4},
        {"messages": turns("question 1"), "output_tokens": 4},
        {"messages": turns("question 0", "a", "and then?"), "output_tokens": 4},
    ]
    assert groups(read(tmp_path, *logged)) == [0, 1, 0]
    greeted = [{"role": "assistant", "content": "Hello!"}, {"role": "assistant", "content": "Well?"}]
    assert groups(read(tmp_path, {"messages": greeted + turns("question", "a")})) == [0, 0]


def test_the_same_prompt_in_another_form_shares_a_group(tmp_path):
    parts = [{"type": "text", "text": "caf\u00e9  au lait"}]
    examples = read(
        tmp_path,
        {"prompt": "Cafe\u0301 au\nlait", "response": "x"},
        {"messages": turns("caf\u00e9 AU lait"), "response": "x"},
        {"messages": [{"role": "user", "content": parts}], "response": "x"},
        {"prompt": "tea", "response": "x"},
    )
    assert groups(examples) == [0, 0, 0, 1]


def test_rows_without_an_id_are_strangers(tmp_path):
    rows = [{"id": None, "prompt": f"p{i}", "response": "x"} for i in range(3)]
    assert groups(read(tmp_path, *rows)) == [0, 1, 2]
    rows = [{"id": None, "conversation_id": i % 2, "prompt": f"p{i}", "response": "x"} for i in range(3)]
    assert groups(read(tmp_path, *rows)) == [0, 1, 0]
    with pytest.raises(PackError, match=r"data\.jsonl:2: .*no prompt"):
        read(tmp_path, {"prompt": "p", "response": "x"}, {"response": "y"})


def test_all_the_formats_are_read(tmp_path):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a" * 40}]
    recorded = {"messages": chat[:1], "output_tokens": 7, "finish_reason": "length", "max_tokens": 7}
    sample = {"id": "q", "prompt": None, "response": "b" * 8}
    examples = read(
        tmp_path, {"messages": chat}, recorded, {"id": "q", "prompt": "p", "response": "é"}, sample
    )
    assert [(e.output_tokens, e.cut, e.request.max_tokens) for e in examples] == [
        (10, False, UNLIMITED),
        (7, True, 7),
        (1, False, UNLIMITED),
        (2, False, UNLIMITED),
    ]
    (tmp_path / "list.json").write_text(json.dumps([{"prompt": "p", "response": "abcde"}]))
    assert read_examples(tmp_path / "list.json", COUNTER)[0].output_tokens == 2


@pytest.mark.parametrize(
    ("fields", "cut"),
    [
        ({"finish_reason": "length"}, True),
        ({"stop_reason": "max_tokens"}, True),
        ({"ended": False}, True),
        ({"finish_reason": "stop", "output_tokens": 9, "max_tokens": 9}, False),
        ({"finish_reason": None, "output_tokens": 9, "max_tokens": 9}, True),
        ({"ended": True, "output_tokens": 9, "max_tokens": 9}, False),
        ({"output_tokens": 8, "max_tokens": 9}, False),
        ({"max_tokens": 1}, False),  # the response was counted, not recorded
    ],
    ids=str,
)
def test_which_responses_were_cut(tmp_path, fields, cut):
    (example,) = read(tmp_path, {"prompt": "p", "response": "a" * 40, **fields})
    assert example.cut == cut


def test_of_a_conversation_only_the_last_answer_was_cut(tmp_path):
    examples = read(tmp_path, {"messages": turns("p", "a", "q", "b"), "finish_reason": "length"})
    assert [example.cut for example in examples] == [False, True]


def test_an_instruction_is_joined_with_its_input(tmp_path):
    alpaca = {"instruction": "Translate.", "output": "x"}
    rows = [alpaca | {"input": text} for text in ("Guten Tag", "", "  ", "Gute Nacht")]
    read_rows = read(
        tmp_path, *rows, {"prompt": "whole", "input": "a column of something else", "response": "x"}
    )
    prompts = [json.loads(example.request.prompt_json) for example in read_rows]
    assert prompts == ["Translate.\nGuten Tag", *["Translate."] * 2, "Translate.\nGute Nacht", "whole"]
    assert groups(read_rows) == [0, 1, 1, 2, 3]
    assert read_rows[0].request.prompt_tokens > read_rows[1].request.prompt_tokens


def test_lengths_without_prompts_judge_what_reads_no_text(tmp_path):
    draw = random.Random(0)
    table = [f"{i},{draw.choice([8, 9, 200])},{draw.choice('ab')}" for i in range(300)]
    (tmp_path / "lengths.csv").write_text("\n".join(["row,output_token_length,model", *table]))
    examples = read_examples(tmp_path / "lengths.csv", COUNTER)
    assert (len(examples), len(set(groups(examples)))) == (300, 300)
    names = ("constant", "history")
    found = evaluate(examples, EvaluationOptions(names, resamples=0))
    assert found.best in ("constant+recalibrated", "history")
    with pytest.raises(PackError, match="240 of 240 examples have no prompt"):
        evaluate(examples, EvaluationOptions(("features",), resamples=0))
    (tmp_path / "torn.csv").write_text('output_tokens,model\n5,"a')
    with pytest.raises(PackError, match=r"torn\.csv:\d: not CSV"):
        read_examples(tmp_path / "torn.csv", COUNTER)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"prompt": "a"', "not JSON"),
        ('{"response": "a"}', r"data\.jsonl:1: .*no prompt"),
        ("[1]", "must be an object"),
        ('{"prompt": "a"}', "no prompt with a response"),
        ('{"prompt": "a", "response": "b", "max_tokens": "many"}', r"data\.jsonl:1"),
        ('{"prompt": "a", "output_tokens": 1e300}', r"data\.jsonl:1: .*output tokens"),
        ('{"prompt": "a", "output_tokens": -3}', r"data\.jsonl:1: .*-3 output tokens"),
        ('{"prompt": "a", "output_tokens": 12.5}', r"data\.jsonl:1: .*output_tokens = 12.5: must be a whole"),
        ('{"prompt": "a", "output_tokens": true}', r"output_tokens = True: must be a whole number"),
        ('{"prompt": "a", "response": "b", "max_tokens": -1}', r"max_tokens = -1: must be at least 1"),
        ('{"prompt": "a", "output_tokens": 5, "max_tokens": 0}', r"max_tokens = 0: must be at least 1"),
        ('{"prompt": "a", "response": "b"}\n{', r"data\.jsonl:2: not JSON"),
    ],
)
def test_bad_data_says_where_and_what(tmp_path, text, complaint):
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(PackError, match=complaint):
        read_examples(tmp_path, COUNTER)
    with pytest.raises(PackError, match="not there"):
        read_examples(tmp_path / "nowhere", COUNTER)


def test_numbers_are_read_however_they_are_written(tmp_path):
    table = "prompt,output_tokens,max_tokens,temperature\na,12.0,100,0.7\nb,7,,\n"
    (tmp_path / "lengths.csv").write_text(table, encoding="utf-8-sig")
    first, second = read_examples(tmp_path / "lengths.csv", COUNTER)
    assert (first.output_tokens, first.request.max_tokens, first.request.temperature) == (12, 100, 0.7)
    assert (second.output_tokens, second.request.max_tokens, second.request.temperature) == (
        7,
        UNLIMITED,
        None,
    )
    rows = '[{"prompt": "a", "response": "b"}]'
    for name, text in (("list.json", rows), ("rows.jsonl", rows[1:-1])):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert len(read_examples(tmp_path / name, COUNTER)) == 1


@pytest.mark.parametrize("fields", [{"output_tokens": 3}, {"output_tokens": 30, "finish_reason": "length"}])
def test_where_nothing_is_wrong_nothing_is_gained(tmp_path, fields):
    examples = read(tmp_path, *({"prompt": f"{number}", **fields} for number in range(60)))
    found = evaluate(examples, EvaluationOptions(("constant", "history"), resamples=5))
    assert found.scores["constant"].pinball == 0
    assert (found.gain, found.gain_interval) == (0, (0, 0))


def answers(tokens, truth, cut=None, groups=None, limits=np.inf):
    count = len(truth)
    return Answers(
        tokens=np.minimum(tokens, np.broadcast_to(limits, count)[:, None]),
        unbounded=tokens,
        truth=truth,
        cut=np.zeros(count, dtype=bool) if cut is None else cut,
        groups=np.arange(count) if groups is None else groups,
    )


def test_scores_are_those_of_the_textbook():
    truth = np.array([10.0, 100.0, 200.0, 30.0])
    said = np.array([20.0, 90.0, 80.0, 25.0])
    tokens = np.outer(said, [0.2, 0.5, 0.8, 1.0, 1.2, 1.5, 4.0])
    scores = Scores.of(answers(tokens, truth))
    losses = [
        max(level * (y - q), (level - 1) * (y - q))
        for y, row in zip(truth, tokens, strict=True)
        for level, q in zip(LEVELS, row, strict=True)
    ]
    assert scores.pinball == pytest.approx(np.mean(losses))
    assert (scores.mae, scores.acc50, scores.acc100) == (36.25, 0.75, 0.75)
    assert scores.mae_over_mean == pytest.approx(36.25 / 85)
    assert scores.coverage80 == 0.75  # 10 lies on its lower bound, 200 is out
    assert scores.kendall_tau == pytest.approx(kendalltau(said, truth).statistic)
    residual, spread = np.log(truth) - np.log(said), np.var(np.log(truth))
    assert scores.r2_log == pytest.approx(1 - np.mean(residual**2) / spread)


def test_bootstrap_intervals_hold_the_score_and_see_a_real_gain():
    draw = np.random.default_rng(0)
    truth = draw.lognormal(4, 0.6, 600)
    good = np.exp(4 + 0.6 * np.array([-1.64, -1.28, -0.67, 0, 0.67, 1.28, 1.64]))
    said = answers(np.tile(good, (600, 1)), truth, groups=np.arange(600) // 2)
    worse = answers(said.tokens * 1.5, truth, groups=said.groups)
    for name, (low, high) in intervals(said, 50, 0).items():
        assert low <= getattr(Scores.of(said), name) <= high
    assert gain_interval(said, worse, 50, 0)[0] > 0


def test_a_cut_response_counts_for_what_is_known_of_it():
    tokens = np.outer([80.0, 300.0, 80.0, 90.0], [0.2, 0.5, 0.8, 1.0, 1.2, 1.5, 4.0])
    truth, cut = np.array([100.0, 100.0, 90.0, 60.0]), np.array([True, True, False, False])
    scores = Scores.of(answers(tokens, truth, cut))
    assert scores.mae == pytest.approx((20 + 0 + 10 + 30) / 4)  # 300 may be right where 100 is the bound
    assert (scores.acc50, scores.kendall_tau) == (1.0, -1.0)  # of those two that ended
    # The first one has passed 77.5 % of what was said of it, the second 7.2 %; the others ended within.
    first, second = (0.9 - 0.775) / 0.225, (0.9 - 0.1) / (1 - 0.05 - 0.05 * 40 / 90)
    assert scores.coverage80 == pytest.approx((first + second + 2) / 4)
    short = Scores.of(answers(np.outer([10.0] * 4, [0.2, 0.5, 0.8, 1.0, 1.2, 1.5, 4.0]), truth, cut))
    assert short.coverage80 == 0.0  # all went beyond 15 tokens, the cut ones too


def test_where_limits_are_not_told_no_more_is_expected_than_others_reached(tmp_path):
    rows = [{"prompt": f"{i}", "output_tokens": 50 + i, "ended": i % 2 == 0} for i in range(9)]
    told = {"prompt": "told", "output_tokens": 7, "max_tokens": 30, "finish_reason": "length"}
    limits = limits_of(read(tmp_path, *rows, told)).tolist()
    assert limits == [54, 54, 54, 54, 54, 55, 56, 57, 58, 30]
    ended = read(tmp_path, *(row | {"ended": True} for row in rows))
    assert set(limits_of(ended)) == {UNLIMITED}


@pytest.mark.parametrize("limits", [[90.0], [20.0, 60.0, 200.0, np.inf]])
def test_true_quantiles_are_best_and_cover_as_they_say_where_limits_cut(limits):
    draw = np.random.default_rng(0)
    length, limit = draw.lognormal(4, 0.6, 6000), draw.choice(limits, 6000)
    cut = length >= limit
    right = np.tile(np.exp(4 + 0.6 * np.array(norm.ppf(LEVELS))), (6000, 1))
    truth = np.minimum(length, limit)
    pinball, coverage = {}, {}
    for factor in (0.8, 1.0, 1.25):
        scores = Scores.of(answers(right * factor, truth, cut, limits=limit))
        pinball[factor], coverage[factor] = scores.pinball, scores.coverage80
    assert min(pinball, key=pinball.get) == 1.0
    assert coverage[1.0] == pytest.approx(0.8, abs=0.015)
    assert abs(((truth >= right[:, 1]) & (truth <= right[:, 5])).mean() - 0.8) > 0.04  # cuts taken for ends


def test_nothing_is_learned_from_prompts_that_are_judged(tmp_path):
    """Lengths that only the prompt itself could tell: with duplicates across the split this would be easy."""
    draw = random.Random(3)
    rows = []
    for number in range(60):
        response = "a" * draw.choice([4, 4000])
        rows += [{"prompt": f"{draw.random()} {number}", "response": response}] * 5
    options = EvaluationOptions(("features",), folds=3, resamples=0)
    scores = evaluate(read(tmp_path, *rows), options).scores
    assert scores["features"].r2_log < 0.2


@pytest.mark.parametrize("cut", [False, True])
def test_what_is_recalibrated_covers_as_it_says_with_cut_responses_or_without(tmp_path, cut):
    draw = random.Random(5)
    rows = []
    for number in range(1200):
        length, limit = round(draw.lognormvariate(4, 0.6)) + 1, draw.choice([40, 10**6])
        tokens = min(length, limit) if cut else length
        row = {"prompt": f"{number}", "output_tokens": tokens, "max_tokens": limit if cut else 10**6}
        rows.append(row | {"finish_reason": "length" if tokens == row["max_tokens"] else "stop"})
    found = evaluate(read(tmp_path, *rows), EvaluationOptions(("constant", "history"), resamples=0))
    assert (300 < found.cut < 500) if cut else found.cut == 0
    for name in ("constant+recalibrated", "history"):
        assert found.scores[name].coverage80 == pytest.approx(0.8, abs=0.04)
    assert found.summary()["cut"] == found.cut


def run_cli(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "length_estimation.cli", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_evaluate_ends_with_its_figures(data_folder, tmp_path):
    code, out, error = run_cli(
        "evaluate", "--data", data_folder, "--folds", 2, "--resamples", 20, "--figure", tmp_path / "f.png"
    )
    assert code == 0, error
    found = json.loads(out.splitlines()[-1])
    assert found["rows"] == 400
    assert set(found["estimators"]) == {*BASELINES, "features", "features+recalibrated"}
    for scores in found["estimators"].values():
        assert {"mae", "mae_over_mean", "pinball", "coverage80", "kendall_tau"} <= set(scores)
    assert found["best"].startswith("features")
    assert found["gain"]["interval95"][0] > 0.3
    assert 0.72 < found["estimators"]["features+recalibrated"]["coverage80"] < 0.88
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--estimators", "magic"), "'magic': unknown here; known: constant"),
        (("--estimators", "roberta"), "needs --encoder"),
        (("--rounds", "9"), "there are 5 parts"),
        (("--folds", "5000"), "cannot be split into 5000 parts"),
        (("--figure", "nowhere/f.png"), "nowhere/f.png: cannot be written"),
        (("--figure", "f.magic"), "no such format; known are"),
    ],
)
def test_evaluate_refuses_what_it_cannot_do(data_folder, arguments, complaint):
    result = CliRunner().invoke(app, ["evaluate", "--data", str(data_folder), *arguments])
    assert result.exit_code == 1
    assert complaint in str(result.exception)
